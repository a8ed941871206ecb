use proptest::prelude::*;

use super::*;

/// As bridge writes it, in the shape of 0.3.1 to 0.4.0; `version` is gone since 1.0.
const BRIDGED: &str = r#"{"cniVersion":"0.4.0","name":"lab","type":"weir-cni","prevResult":{
    "cniVersion":"0.4.0",
    "interfaces":[{"name":"cni0","mac":"02:00:00:00:00:09"},
                  {"name":"vethab","mac":"02:00:00:00:00:08"},
                  {"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/run/netns/x"}],
    "ips":[{"version":"4","interface":2,"address":"10.244.0.7/24","gateway":"10.244.0.1"},
           {"version":"6","interface":2,"address":"fd00::7/64"}],
    "routes":[{"dst":"0.0.0.0/0"}],"dns":{}}}"#;

fn with(members: &str) -> String {
    format!(r#"{{"cniVersion":"1.1.0","name":"lab","type":"weir-cni",{members}}}"#)
}

fn made(prev: &str) -> Result<Made, Failure> {
    let text = with(&format!("\"prevResult\":{prev}"));
    Config::parse(&text).unwrap().made("eth0")
}

#[test]
fn what_bridge_made_is_read() {
    let config = Config::parse(BRIDGED).unwrap();
    assert_eq!(config.version("ADD", "0.3.1").unwrap(), "0.4.0");
    assert_eq!(config.network().unwrap(), "lab");
    assert_eq!(config.settings().unwrap(), Settings::default());
    let made = config.made("eth0").unwrap();
    assert_eq!(made.host, ["cni0", "vethab"]);
    assert_eq!(made.mac.as_deref(), Some("02:00:00:00:00:07"));
    let addresses: Vec<IpAddr> = vec!["10.244.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    assert_eq!(made.addresses, addresses);
    // The same result, asked for another interface.
    assert_eq!(config.made("net1").unwrap().addresses, Vec::<IpAddr>::new());
}

#[test]
fn an_address_belongs_to_the_interface_that_it_names() {
    let both = r#"{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/n"},
        {"name":"net1","sandbox":"/n"},{"name":"eth0","sandbox":""}],
        "ips":[{"address":"10.0.0.1/32"},{"address":"10.0.0.2/32","interface":1},
        {"address":"10.0.0.3/32","interface":2},{"address":"10.0.0.4/32","interface":0},
        {"address":"10.0.0.5/32","interface":3},{"address":"10.0.0.6/32","interface":-1}]}"#;
    let made = made(both).unwrap();
    let last: Vec<_> = made.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(last, ["10.0.0.1", "10.0.0.2", "10.0.0.6"]);
    assert_eq!(made.host, ["veth1", "eth0"]);
}

#[test]
fn results_that_say_little_are_results() {
    for prev in ["{}", r#"{"ips":null,"interfaces":null}"#, r#"{"ips":[],"dns":{"x":[]}}"#] {
        assert_eq!(made(prev).unwrap(), Made::default());
    }
}

#[test]
fn results_that_cannot_be_are_refused() {
    for (prev, code, words) in [
        ("null", code::CONFIGURATION, "no prevResult"),
        ("7", code::DECODE, "cannot read prevResult"),
        (r#"{"ips":[{"address":"10.0.0.1"}]}"#, code::CONFIGURATION, "no ADDRESS/LENGTH"),
        (r#"{"ips":[{"address":"x/8"}]}"#, code::CONFIGURATION, "prevResult.ips[0].address"),
        (r#"{"ips":[{"address":"1.2.3.4/8","interface":1}]}"#, code::CONFIGURATION, "there are 0"),
        (r#"{"ips":{}}"#, code::DECODE, "cannot read prevResult"),
        (r#"{"interfaces":[{"mac":"x"}]}"#, code::DECODE, "missing field `name`"),
    ] {
        let failure = made(prev).unwrap_err();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.msg.contains(words), "{} should say: {words}", failure.msg);
    }
}

#[test]
fn own_keys_are_what_they_may_be() {
    let text = with(r#""socket":"/x/y.sock","timeoutMs":2500,"onTimeout":"quarantine""#);
    let settings = Config::parse(&text).unwrap().settings().unwrap();
    assert_eq!(settings.socket, Path::new("/x/y.sock"));
    assert_eq!(settings.timeout, Duration::from_millis(2500));
    assert_eq!(settings.on_timeout, OnTimeout::Quarantine);
    assert_eq!(settings.on_failure, OnFailure::Closed);
    for (members, on_timeout) in [
        (r#""onFailure":"open""#, OnTimeout::Quarantine),
        (r#""onFailure":"open","onTimeout":"fail""#, OnTimeout::Fail),
    ] {
        let text = with(members);
        let settings = Config::parse(&text).unwrap().settings().unwrap();
        assert_eq!((settings.on_failure, settings.on_timeout), (OnFailure::Open, on_timeout));
    }
    for (members, words) in [
        (r#""socket":"relative""#, "socket is \"relative\""),
        (r#""socket":7"#, "socket is 7"),
        (r#""timeoutMs":0"#, "timeoutMs is 0"),
        (r#""timeoutMs":120001"#, "1 to 120000"),
        (r#""timeoutMs":"5""#, "timeoutMs is \"5\""),
        (r#""onTimeout":"pass""#, "give \"fail\" or \"quarantine\""),
        (r#""onTimeout":null"#, "onTimeout is null"),
        (r#""onFailure":"pass""#, "give \"closed\" or \"open\""),
    ] {
        let text = with(members);
        let failure = Config::parse(&text).unwrap().settings().unwrap_err();
        assert_eq!(failure.code, code::CONFIGURATION);
        assert!(failure.to_string().contains(words), "{failure} should say: {words}");
    }
}

#[test]
fn ports_of_the_node_are_read() {
    let text = with(
        r#""runtimeConfig":{"portMappings":[
        {"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":""},
        {"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"},
        {"hostPort":0,"containerPort":9}]}"#,
    );
    let ports = Config::parse(&text).unwrap().host_ports().unwrap();
    assert_eq!(
        ports,
        [
            HostPort { protocol: Protocol::Tcp, host_ip: None, host: 8080, pod: 80 },
            HostPort {
                protocol: Protocol::Udp,
                host_ip: Some("192.0.2.1".parse().unwrap()),
                host: 5353,
                pod: 53
            },
        ]
    );
    assert_eq!(Config::parse(BRIDGED).unwrap().host_ports().unwrap(), []);
    for wrong in [r#"{"hostPort":1,"protocol":"icmp"}"#, r#"{"hostPort":1,"hostIP":"x"}"#] {
        let text = with(&format!(r#""runtimeConfig":{{"portMappings":[{wrong}]}}"#));
        let failure = Config::parse(&text).unwrap().host_ports().unwrap_err();
        assert_eq!(failure.code, code::CONFIGURATION);
    }
    let text = with(r#""runtimeConfig":{"portMappings":[{"hostPort":70000}]}"#);
    assert_eq!(Config::parse(&text).unwrap().host_ports().unwrap_err().code, code::DECODE);
}

#[test]
fn no_list_of_attachments_is_not_an_empty_one() {
    let valid = |members: &str| Config::parse(&with(members)).unwrap().valid_attachments();
    let one = r#"[{"containerID":"c","ifname":"eth0","more":1}]"#;
    for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let found = valid(&format!("{name:?}:{one}")).unwrap();
        assert_eq!(found, [("c".to_owned(), "eth0".to_owned())]);
    }
    for empty in ["[]", "null"] {
        assert_eq!(valid(&format!("\"cni.dev/valid-attachments\":{empty}")).unwrap(), []);
    }
    assert_eq!(valid("\"x\":1").unwrap_err().code, code::CONFIGURATION);
    let wrong = r#""cni.dev/valid-attachments":[{"containerID":"../c","ifname":"eth0"}]"#;
    assert_eq!(valid(wrong).unwrap_err().code, code::CONFIGURATION);
}

#[test]
fn versions_that_are_not_spoken_are_named() {
    for (version, verb, first, words) in [
        ("0.2.0", "ADD", "0.3.1", "config is \"0.2.0\", weir-cni speaks 0.3.1, 0.4.0"),
        ("1.2.0", "ADD", "0.3.1", "config is \"1.2.0\""),
        ("0.3.1", "CHECK", "0.4.0", "CNI 0.3.1 has no CHECK"),
        ("1.0.0", "STATUS", "1.1.0", "CNI 1.0.0 has no STATUS"),
    ] {
        let text = format!(r#"{{"cniVersion":{version:?}}}"#);
        let failure = Config::parse(&text).unwrap().version(verb, first).unwrap_err();
        assert_eq!(failure.code, code::VERSION);
        assert!(failure.msg.contains(words), "{} should say: {words}", failure.msg);
    }
    let failure = Config::parse("{}").unwrap().version("ADD", "0.3.1").unwrap_err();
    assert!(failure.msg.contains("config is \"0.1.0\""), "{}", failure.msg);
}

#[test]
fn a_network_has_a_name() {
    for text in ["{}", r#"{"name":""}"#, r#"{"name":"/etc"}"#] {
        let failure = Config::parse(text).unwrap().network().unwrap_err();
        assert_eq!(failure.code, code::CONFIGURATION);
    }
    assert_eq!(Config::parse("[]").unwrap_err().code, code::DECODE);
    assert_eq!(Config::parse("{").unwrap_err().code, code::DECODE);
}

/// Text near enough to a configuration to get somewhere.
fn nearly() -> impl Strategy<Value = String> {
    (any::<prop::sample::Index>(), any::<char>(), 0_u8..3).prop_map(|(at, other, how)| {
        let mut text: Vec<char> = BRIDGED.chars().collect();
        let at = at.index(text.len());
        match how {
            0 => text[at] = other,
            1 => text.truncate(at),
            _ => text.insert(at, other),
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof![nearly(), any::<String>()]) {
        let Ok(config) = Config::parse(&text) else { return Ok(()) };
        _ = (config.version("ADD", "0.3.1"), config.network(), config.made("eth0"));
        _ = (config.settings(), config.host_ports(), config.valid_attachments());
    }
}
