use proptest::prelude::*;

use super::*;

const ENTRY: &str = r#"{ "type": "weir-cni", "timeoutMs": 5 }"#;

/// As flannel lays its file out.
const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": { "hairpinMode": true, "x": "]},[{" }
    },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true }
    }
  ]
}
"#;

/// What others lay out otherwise.
const LISTS: [&str; 5] = [
    FLANNEL,
    r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"}]}"#,
    "{\"plugins\" : [ {\"type\":\"ptp\"} , {\"type\":\"tuning\"} ] ,\"name\":\"x\"}\r\n\r\n",
    "\t{ \"plugins\": [\r\n\t\t{ \"type\": \"ptp\" }\r\n\t] }",
    r#"{"plugins":[{"type":"old"}],"plugins":[{"type":"bridge"}],"Plugins":[]}"#,
];

#[test]
fn an_entry_goes_in_behind_the_last_and_out_again_to_the_byte() {
    for list in LISTS {
        let chained = insert(list, ENTRY).unwrap().unwrap();
        assert_eq!(insert(&chained, ENTRY), Ok(None), "it is in already");
        assert!(is_in(&chained) && !is_in(list));
        assert_eq!(remove(&chained).unwrap().as_deref(), Some(list));
        assert_eq!(remove(list), Ok(None));
        let plugins = Plugins::find(&chained).unwrap();
        assert_eq!(plugins.ours, [plugins.elements.len() - 1]);
    }
    let chained = insert(FLANNEL, ENTRY).unwrap().unwrap();
    assert!(chained.contains("true }\n    },\n    { \"type\": \"weir-cni\""), "{chained}");
}

#[test]
fn other_settings_replace_the_entry_alone() {
    let chained = insert(FLANNEL, ENTRY).unwrap().unwrap();
    let other = r#"{"type":"weir-cni"}"#;
    let changed = insert(&chained, other).unwrap().unwrap();
    assert_eq!(changed, chained.replace(ENTRY, other));
    // Laid out anew by somebody: the same.
    let anew = chained.replace(ENTRY, "{\"timeoutMs\" : 5,\n\"type\":\"weir-cni\"}");
    assert_eq!(insert(&anew, ENTRY), Ok(None));
    assert_eq!(remove(&anew).unwrap().as_deref(), Some(FLANNEL));
}

#[test]
fn whoever_came_behind_is_not_fought() {
    let list = r#"{"plugins":[{"type":"bridge"}, { "type": "weir-cni", "timeoutMs": 5 }, {"type":"istio-cni"}]}"#;
    assert_eq!(insert(list, ENTRY), Ok(None));
    assert_eq!(
        remove(list).unwrap().unwrap(),
        r#"{"plugins":[{"type":"bridge"}, {"type":"istio-cni"}]}"#
    );
}

#[test]
fn entries_at_the_wrong_place_or_doubled_are_put_right() {
    let (bridge, ours) = (r#"{"type":"bridge"}"#, r#"{"type":"weir-cni"}"#);
    for list in [
        format!(r#"{{"plugins":[{ours},{bridge}]}}"#),
        format!(r#"{{"plugins":[{ours},{ours},{bridge}]}}"#),
        format!(r#"{{"plugins":[{ours},{bridge},{ours}]}}"#),
        format!(r#"{{"plugins":[{bridge},{ours},{ours}]}}"#),
    ] {
        let right = insert(&list, ENTRY).unwrap().unwrap();
        assert_eq!(right, format!(r#"{{"plugins":[{bridge},{ENTRY}]}}"#));
        assert_eq!(remove(&list).unwrap().unwrap(), format!(r#"{{"plugins":[{bridge}]}}"#));
    }
    let alone = format!(r#"{{"plugins":[ {ours} , {ours} ]}}"#);
    assert_eq!(insert(&alone, ENTRY), Err(SpliceError::Alone));
    let rest = remove(&alone).unwrap().unwrap();
    assert!(Plugins::find(&rest).unwrap().elements.is_empty(), "{rest}");
}

#[test]
fn what_is_no_list_is_said_to_be_none() {
    for (list, wanted) in [
        ("{}", SpliceError::NoPlugins),
        ("[]", SpliceError::NoPlugins),
        (r#"{"plugins":{}}"#, SpliceError::NoPlugins),
        (r#"{"plugins":[]}"#, SpliceError::Alone),
    ] {
        assert_eq!(insert(list, ENTRY), Err(wanted));
    }
    for list in ["", "{", "{\"plugins\":[}", "{} x"] {
        assert!(matches!(insert(list, ENTRY), Err(SpliceError::Syntax(_))));
        assert!(matches!(remove(list), Err(SpliceError::Syntax(_))));
        assert!(!is_in(list));
    }
}

/// Lists of any plugins, ours among them at any place, in any layout.
fn list() -> impl Strategy<Value = String> {
    let plugin = prop_oneof![
        3 => "[a-z]{1,6}".prop_map(|kind| format!(r#"{{"type":"{kind}","x":["]",{{}}]}}"#)),
        1 => Just(r#"{ "type" : "weir-cni" }"#.to_owned()),
        1 => Just("7".to_owned()),
    ];
    (prop::collection::vec(plugin, 0..6), "[ \n\t]{0,3}", "[ \n]{0,3}").prop_map(
        |(plugins, before, behind)| {
            let plugins = plugins.join(&format!("{behind},{before}"));
            format!("{before}{{\"a\":[{behind}],\"plugins\":{behind}[{before}{plugins}{behind}]}}")
        },
    )
}

/// What a list says, ours left out.
fn others(list: &str) -> Vec<serde_json::Value> {
    let list: serde_json::Value = serde_json::from_str(list).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    plugins.iter().filter(|plugin| plugin["type"] != PLUGIN).cloned().collect()
}

proptest! {
    #[test]
    fn others_stay_and_ours_is_there_once(list in list()) {
        let had = others(&list);
        if had.is_empty() {
            prop_assert_eq!(insert(&list, ENTRY), Err(SpliceError::Alone));
            return Ok(());
        }
        let chained = insert(&list, ENTRY).unwrap().unwrap_or_else(|| list.clone());
        prop_assert_eq!(&others(&chained), &had);
        let plugins = Plugins::find(&chained).unwrap();
        prop_assert_eq!(plugins.ours.len(), 1);
        prop_assert!(plugins.ours[0] > 0);
        prop_assert!(same(&chained[plugins.elements[plugins.ours[0]].clone()], ENTRY));
        prop_assert_eq!(insert(&chained, ENTRY), Ok(None));
        let rest = remove(&chained).unwrap().unwrap();
        prop_assert_eq!(others(&rest), had);
        prop_assert!(!is_in(&rest));
        if !is_in(&list) {
            prop_assert_eq!(rest, list);
        }
    }

    #[test]
    fn nothing_panics(list in prop_oneof![list(), any::<String>()], at in any::<prop::sample::Index>(), other in any::<char>()) {
        let mut text: Vec<char> = list.chars().collect();
        if !text.is_empty() {
            let at = at.index(text.len());
            text[at] = other;
        }
        let text: String = text.into_iter().collect();
        _ = insert(&text, ENTRY);
        _ = remove(&text);
    }
}
