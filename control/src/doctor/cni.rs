//! Whether pods wait for their policies before they start.

use super::{Cni, Configuration, Finding};

/// The type of our entry in a list of plugins.
const OURS: &str = weir_cni::PLUGIN;
/// What weir-cni of this version says.
const VERSION: &str = concat!("weir-cni ", env!("CARGO_PKG_VERSION"));
/// Plugins that enforce NetworkPolicies themselves.
const ENGINES: [(&str, &str); 6] = [
    ("calico", "Calico"),
    ("cilium-cni", "Cilium"),
    ("antrea", "Antrea"),
    ("ovn-k8s-cni-overlay", "OVN-Kubernetes"),
    ("aws-cni", "the AWS VPC CNI"),
    ("weave-net", "Weave Net"),
];

pub(super) fn check(cni: &Cni) -> Vec<Finding> {
    let (conf, bin) = (cni.conf_dir.display(), cni.bin_dir.display());
    let found = match &cni.in_force {
        Err(error) => {
            return vec![Finding::fail(
                "cni",
                format!("the CNI configuration cannot be read: {error}"),
                "no pod starts while the runtime cannot either; if it looks elsewhere, give \
                 --cni-conf-dir (crictl info shows it)",
            )];
        }
        Ok(None) if !cni.skipped.is_empty() => {
            return vec![Finding::fail(
                "cni",
                format!("no CNI configuration can be loaded: {}", cni.skipped.join("; ")),
                "repair it: no pod starts without one",
            )];
        }
        Ok(None) => {
            return vec![Finding::note(
                "cni",
                format!("{conf} holds no CNI configuration"),
                "if the runtime looks elsewhere, give --cni-conf-dir (crictl info shows it); \
                 without CNI pods are found a moment after they begin",
            )];
        }
        Ok(Some(found)) => found,
    };
    let Configuration { file, version, plugins } = found;
    let mut findings = Vec::new();
    if !cni.skipped.is_empty() {
        findings.push(Finding::note(
            "cni-skipped",
            format!("runtimes pass over {}", cni.skipped.join("; ")),
            "repair or remove it: repaired it would be in force",
        ));
    }
    match plugins.iter().position(|plugin| plugin == OURS) {
        None => findings.push(Finding::note(
            "cni",
            format!(
                "{file} is in force, and weir-cni is not in it: pods are found a moment after \
                     they begin"
            ),
            format!("weir-cni install --conf-dir {conf} --bin-dir {bin}"),
        )),
        Some(at) if at + 1 < plugins.len() => findings.push(Finding::note(
            "cni",
            format!(
                "in {file} weir-cni comes before {}: what that changes of a pod's interface is \
                 not waited for",
                plugins.get(at + 1..).unwrap_or_default().join(", ")
            ),
            "weir-cni uninstall and install puts it last",
        )),
        Some(_) => findings.push(Finding::ok(
            "cni",
            format!("{file} is in force, and weir-cni is the last of {}", plugins.join(", ")),
        )),
    }
    let is_chained = plugins.iter().any(|plugin| plugin == OURS);
    if is_chained {
        findings.push(program(cni, file));
    }
    if is_chained && is_old(version) {
        findings.push(Finding::fail(
            "cni-version",
            format!(
                "{file} is of cniVersion {version:?}: plugins that are chained learn nothing of \
                     each other"
            ),
            "write cniVersion 0.3.1 or newer into it",
        ));
    }
    let engines = ENGINES.iter().filter(|(plugin, _)| plugins.iter().any(|p| p == plugin));
    let engines: Vec<&str> = engines.map(|(_, engine)| *engine).collect();
    if !engines.is_empty() {
        findings.push(Finding::note(
            "cni-engine",
            format!(
                "pods are wired by {}, which may enforce NetworkPolicies itself",
                engines.join(", ")
            ),
            "then packets have to pass both: switch one off (deploy/README.md, \"Beside another \
             engine's policies\")",
        ));
    }
    findings
}

/// The program that the runtime starts for the entry in `file`.
fn program(cni: &Cni, file: &str) -> Finding {
    let (conf, bin) = (cni.conf_dir.display(), cni.bin_dir.display());
    let install = format!("weir-cni install --conf-dir {conf} --bin-dir {bin}");
    match &cni.program {
        None => Finding::fail(
            "cni-program",
            format!("weir-cni is in {file}, but not in {bin} (or not executable): no pod starts"),
            format!("{install}; if plugins are elsewhere, give --cni-bin-dir"),
        ),
        Some(Err(error)) => Finding::fail(
            "cni-program",
            format!("weir-cni in {bin} does not run: {error}: no pod starts"),
            format!("{install}, with a weir-cni that is linked statically"),
        ),
        Some(Ok(version)) if version == VERSION => {
            Finding::ok("cni-program", format!("{version} is in {bin}"))
        }
        Some(Ok(version)) => Finding::note(
            "cni-program",
            format!("in {bin} there is {version}, and this is weir {}", env!("CARGO_PKG_VERSION")),
            format!("use the programs of one version: {install}"),
        ),
    }
}

/// Below 0.3.1, or absent: what such a configuration stands for is 0.1.0 or 0.2.0.
fn is_old(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    numbers.as_slice() < [0, 3, 1].as_slice()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn of(plugins: &[&str]) -> Cni {
        Cni {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dir: "/opt/cni/bin".into(),
            in_force: Ok(Some(Configuration {
                file: "10-net.conflist".to_owned(),
                version: "1.0.0".to_owned(),
                plugins: plugins.iter().map(|plugin| (*plugin).to_owned()).collect(),
            })),
            skipped: Vec::new(),
            program: Some(Ok(VERSION.to_owned())),
        }
    }

    fn wrong(cni: &Cni) -> Vec<(&'static str, Level, String)> {
        let findings = check(cni).into_iter().filter(|finding| finding.level != Level::Ok);
        findings
            .map(|f| (f.check, f.level, format!("{} — {}", f.what, f.remedy.unwrap())))
            .collect()
    }

    #[test]
    fn last_in_the_chain_is_well() {
        let findings = check(&of(&["bridge", "portmap", "weir-cni"]));
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok));
        assert_eq!(findings[1].what, format!("{VERSION} is in /opt/cni/bin"));
        assert!(findings[0].what.ends_with("the last of bridge, portmap, weir-cni"));
    }

    #[test]
    fn what_is_wrong_with_the_chain_is_said() {
        let program = |program| Cni { program, ..of(&["bridge", "weir-cni"]) };
        let without_program = program(None);
        let crippled = program(Some(Err("No such file or directory (os error 2)".to_owned())));
        let other = program(Some(Ok("weir-cni 0.0.1".to_owned())));
        let mut old = of(&["bridge", "weir-cni"]);
        old.in_force.as_mut().unwrap().as_mut().unwrap().version = "0.3.0".to_owned();
        let unread = Cni { in_force: Err("10-net.conf: EOF".to_owned()), ..of(&[]) };
        let none = Cni { in_force: Ok(None), ..of(&[]) };
        let broken =
            Cni { in_force: Ok(None), skipped: vec!["05-x.conf is no JSON".to_owned()], ..of(&[]) };
        let passed_over = Cni { skipped: vec!["05-x.conf is no JSON".to_owned()], ..of(&[OURS]) };
        for (cni, name, level, words) in [
            (of(&["bridge"]), "cni", Level::Note, "weir-cni install --conf-dir /etc/cni/net.d"),
            (of(&["ptp", "weir-cni", "portmap"]), "cni", Level::Note, "comes before portmap"),
            (of(&["calico", "weir-cni"]), "cni-engine", Level::Note, "Calico"),
            (without_program, "cni-program", Level::Fail, "no pod starts"),
            (crippled, "cni-program", Level::Fail, "does not run: No such file"),
            (other, "cni-program", Level::Note, "there is weir-cni 0.0.1, and this is weir "),
            (old, "cni-version", Level::Fail, "0.3.0"),
            (unread, "cni", Level::Fail, "10-net.conf: EOF"),
            (broken, "cni", Level::Fail, "05-x.conf is no JSON"),
            (passed_over, "cni-skipped", Level::Note, "pass over 05-x.conf"),
            (none, "cni", Level::Note, "/etc/cni/net.d holds no CNI configuration"),
        ] {
            let found = wrong(&cni);
            let [(check, found_level, text)] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((*check, *found_level), (name, level), "{text}");
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn versions() {
        for (version, old) in [
            ("0.3.1", false),
            ("1.0.0", false),
            ("1.1.0", false),
            ("0.3.0", true),
            ("0.2.0", true),
            ("", true),
        ] {
            assert_eq!(is_old(version), old, "{version}");
        }
    }
}
