//! One case a rule of the API server's validation.

use weir_control::model::Severity;

use super::*;

/// What the API server would refuse is left out, naming object and field.
#[test]
fn bad_input_is_left_out_and_named() {
    let cases: Vec<(&str, Loaded, &str, &str)> = vec![
        ("no ports", service("{selector: {a: b}}"), "spec", "`ports` is required"),
        ("no spec", service("~"), "", "`spec` is required"),
        ("spec is a list", service("[]"), "spec", "a mapping"),
        ("type", service("{type: Clusterip, ports: [{port: 1}]}"), "spec.type", "ClusterIP"),
        ("port 0", service("{ports: [{port: 0}]}"), "spec.ports[0].port", "1 to 65535"),
        ("no port", service("{ports: [{}]}"), "spec.ports[0]", "`port` is required"),
        (
            "target 70000",
            service("{ports: [{port: 1, targetPort: 70000}]}"),
            "spec.ports[0].targetPort",
            "1 to 65535",
        ),
        (
            "target in quotes",
            service("{ports: [{port: 1, targetPort: \"80\"}]}"),
            "spec.ports[0].targetPort",
            "without quotes",
        ),
        (
            "target of a wrong type",
            service("{ports: [{port: 1, targetPort: [80]}]}"),
            "spec.ports[0].targetPort",
            "number or a port name",
        ),
        (
            "protocol",
            service("{ports: [{port: 1, protocol: tcp}]}"),
            "spec.ports[0].protocol",
            "TCP, UDP or SCTP",
        ),
        (
            "node port",
            service("{ports: [{port: 1, nodePort: 99999}]}"),
            "spec.ports[0].nodePort",
            "1 to 65535",
        ),
        (
            "two ports without names",
            service("{ports: [{port: 1, name: a}, {port: 2}]}"),
            "spec.ports[1]",
            "`name` is required",
        ),
        ("address", service("{clusterIP: 10.0.0, ports: [{port: 1}]}"), "spec.clusterIP", "no IP"),
        (
            "headless with an address",
            service("{clusterIPs: [None, 10.0.0.1], ports: [{port: 1}]}"),
            "spec",
            "None and an address",
        ),
        (
            "selector",
            service("{selector: {a: [b]}, ports: [{port: 1}]}"),
            "spec.selector.a",
            "a string",
        ),
        (
            "traffic policy",
            service("{externalTrafficPolicy: Node, ports: [{port: 1}]}"),
            "spec.externalTrafficPolicy",
            "Cluster nor Local",
        ),
        ("no name", read("apiVersion: v1\nkind: Service\nspec: {clusterIP: None}"), "", "name"),
        ("no address type", slice("endpoints: []"), "", "`addressType` is required"),
        ("address type", slice("addressType: ipv4"), "addressType", "IPv4, IPv6 and FQDN"),
        (
            "other family",
            slice("addressType: IPv4\nendpoints: [{addresses: [\"fd00::1\"]}]"),
            "endpoints[0].addresses[0]",
            "does not fit",
        ),
        (
            "no address",
            slice("addressType: IPv4\nendpoints: [{}]"),
            "endpoints[0]",
            "at least one address",
        ),
        (
            "bad address",
            slice("addressType: IPv4\nendpoints: [{addresses: [10.0.0.256]}]"),
            "endpoints[0].addresses[0]",
            "no IP address",
        ),
        (
            "mapped address",
            slice("addressType: IPv6\nendpoints: [{addresses: [\"::ffff:10.0.0.1\"]}]"),
            "endpoints[0].addresses[0]",
            "address of one host",
        ),
        (
            "condition",
            slice(
                "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: maybe}}]",
            ),
            "endpoints[0].conditions.ready",
            "true or false",
        ),
        (
            "slice port",
            slice("addressType: IPv4\nports: [{port: 65536}]"),
            "ports[0].port",
            "1 to 65535",
        ),
        (
            "version",
            read(
                "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4",
            ),
            "apiVersion",
            "discovery.k8s.io/v1",
        ),
        ("pod CIDR", node("spec: {podCIDR: 10.244.0.0}"), "spec.podCIDR", "no CIDR"),
        (
            "node address",
            node("status: {addresses: [{type: InternalIP, address: n1}]}"),
            "status.addresses[0].address",
            "no IP address",
        ),
        (
            "no type",
            node("status: {addresses: [{address: 10.0.0.1}]}"),
            "status.addresses[0]",
            "`type` is required",
        ),
        (
            "no node address",
            node("status: {addresses: [{type: InternalIP}]}"),
            "status.addresses[0]",
            "`address` is required",
        ),
        (
            "labels",
            read("apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: []}"),
            "metadata.labels",
            "a mapping",
        ),
    ];
    for (name, loaded, field, message) in cases {
        assert!(loaded.objects.is_empty(), "{name}: {:?}", loaded.objects);
        let complaint = loaded.complaints.iter().find(|c| c.field == field);
        let complaint = complaint.unwrap_or_else(|| panic!("{name}: {:?}", loaded.complaints));
        assert_eq!(complaint.severity, Severity::Refused, "{name}");
        assert!(complaint.message.contains(message), "{name}: {complaint}");
        assert!(complaint.consequence.contains("is left out"), "{name}: {complaint}");
        assert!(complaint.origin.line > 0, "{name}: {complaint}");
    }
}
