//! Where egress isolation leads, and Services.

use weir_control::lint::Severity::{Info, Warning};

use super::{Case, both, case, named, service, web};

pub(super) fn cases() -> Vec<Case> {
    let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53}, {port: 53, protocol: UDP}]}";
    let sql = "{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}";
    let out = |rules: &str| web(&format!("policyTypes: [Egress]\negress: [{rules}]"));
    let port_5353 = "
{apiVersion: v1, kind: Service, metadata: {namespace: kube-system, name: kube-dns}, spec: {selector: {k8s-app: kube-dns}, ports: [{name: u, port: 53, targetPort: 5353, protocol: UDP}, {name: t, port: 53, targetPort: 5353}]}}
";
    let api = "
{apiVersion: v1, kind: Service, metadata: {namespace: default, name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: default, name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}, addressType: IPv4, endpoints: [{addresses: [192.0.2.10]}], ports: [{name: https, port: 6443}]}
";
    let master = "{apiVersion: v1, kind: Node, metadata: {name: n, labels: {node-role.kubernetes.io/control-plane: \"\"}}, status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}}\n";
    let to_api = "{to: [{ipBlock: {cidr: 192.0.2.10/32}}], ports: [{port: 6443}]}";
    let system = |rules: &str| {
        named("kube-system", "p", "{}", &format!("policyTypes: [Egress]\negress: [{rules}]"))
    };
    let http = service("{selector: {app: web}, ports: [{port: 80, targetPort: http}]}");
    let on_8080 = service("{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}");
    let local =
        on_8080.replace("{selector", "{type: LoadBalancer, externalTrafficPolicy: Local, selector");
    let to_db = "{to: [{podSelector: {matchLabels: {app: db}}}]}";
    let dnsmasq = "{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: dnsmasq}, spec: {selector: {app: db}, ports: [{port: 53, protocol: UDP}]}}\n";
    let db = service(
        "{clusterIP: 10.96.0.20, selector: {app: db}, ports: [{port: 80, targetPort: 5432}]}",
    );
    let to_address = "{to: [{ipBlock: {cidr: 10.96.0.20/32}}], ports: [{port: 80}]}";
    let kube_dns = "{apiVersion: v1, kind: Service, metadata: {namespace: kube-system, name: kube-dns}, spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{name: u, port: 53, protocol: UDP}, {name: t, port: 53}]}}\n";
    let to_dns =
        "{to: [{ipBlock: {cidr: 10.96.0.10/32}}], ports: [{port: 53}, {port: 53, protocol: UDP}]}";
    let stable = |rest: &str| named("shop", "p", "{matchLabels: {track: stable}}", rest);
    let slice = |ready: bool| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{namespace: shop, name: web-1, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, endpoints: [{{addresses: [10.0.0.1], targetRef: {{kind: Pod, name: web-1}}}}, {{addresses: [10.0.0.2], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: web-2}}}}], ports: [{{port: 8080}}]}}\n"
        )
    };
    vec![
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["2 pods (shop/web-1, shop/web-2) cannot resolve names", "ports 53 of UDP and TCP"],
            (out(sql), out(&format!("{sql}, {dns}"))),
        ),
        case(
            "no-dns",
            Info,
            "spec.egress",
            &["may send nothing at all"],
            // A rule for everyone reaches a resolver outside.
            (out(""), out("{ports: [{port: 53, protocol: UDP}, {port: 53}]}")),
        ),
        case(
            "no-dns",
            Info,
            "spec.egress",
            &["over UDP and not over TCP"],
            (out(&dns.replace("{port: 53}, ", "")), out(dns)),
        ),
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["the DNS pods listen on 5353"],
            (
                both(&out(dns), port_5353),
                both(&out(&dns.replace("port: 53", "port: 5353")), port_5353),
            ),
        ),
        case(
            "no-dns",
            Warning,
            "spec.ingress",
            &["the DNS pods are isolated for ingress by this policy", "no `from`"],
            (
                named("kube-system", "p", "{}", "ingress: [{from: [{podSelector: {}}]}]"),
                named(
                    "kube-system",
                    "p",
                    "{}",
                    "ingress: [{ports: [{port: 53}, {port: 53, protocol: UDP}]}]",
                ),
            ),
        ),
        // A Service does not become the cluster's resolver by its name.
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["2 pods (shop/web-1, shop/web-2) cannot resolve names"],
            (both(&out(to_db), dnsmasq), both(&out(&format!("{to_db}, {dns}")), dnsmasq)),
        ),
        case(
            "service-address",
            Warning,
            "spec.egress",
            &[
                "this policy lets 2 pods (shop/web-1, shop/web-2) send to the own address of Service shop/web",
                "select the backends' pods",
            ],
            (
                both(&out(&format!("{dns}, {to_address}")), &db),
                both(&out(&format!("{sql}, {dns}, {to_address}")), &db),
            ),
        ),
        case(
            "service-address",
            Warning,
            "spec.egress",
            &["the own address of Service kube-system/kube-dns"],
            (both(&out(to_dns), kube_dns), both(&out(&format!("{dns}, {to_dns}")), kube_dns)),
        ),
        // Without pods the rules' ports decide.
        case(
            "no-dns",
            Warning,
            "spec.egress",
            &["no rule allows UDP/53"],
            (format!("!{}", out(sql)), format!("!{}", out(&format!("{sql}, {dns}")))),
        ),
        case(
            "no-api-server",
            Warning,
            "spec.egress",
            &["2 pods (shop/web-1, shop/web-2) cannot reach the API server", "ipBlock"],
            (both(&out(dns), api), both(&out(&format!("{dns}, {to_api}")), api)),
        ),
        case(
            "no-api-server",
            Warning,
            "spec.egress",
            &["kube-system/coredns"],
            (both(&system(dns), master), both(&system(to_api), master)),
        ),
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &[
                "TCP/80 pass or fail by chance",
                "reach only shop/web-2, not shop/web-1",
                "no ingress rule of NetworkPolicy shop/p allows it",
                "`app=web`",
            ],
            (both(&http, &stable("ingress: []")), both(&http, &web("ingress: []"))),
        ),
        // The backends' ports differ, and the rule names one number.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &["reach only shop/web-1, not shop/web-2"],
            (
                both(&http, &web("ingress: [{ports: [{port: 8080}]}]")),
                both(&http, &web("ingress: [{ports: [{port: http}]}]")),
            ),
        ),
        // The client's own policy knows one backend.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &[
                "1 client pod (shop/db) reach only shop/web-1",
                "egress rule of NetworkPolicy shop/p",
            ],
            (
                both(
                    &on_8080,
                    &named(
                        "shop",
                        "p",
                        "{matchLabels: {app: db}}",
                        "policyTypes: [Egress]\negress: [{to: [{podSelector: {matchLabels: {track: stable}}}]}]",
                    ),
                ),
                both(
                    &on_8080,
                    &named(
                        "shop",
                        "p",
                        "{matchLabels: {app: db}}",
                        "policyTypes: [Egress]\negress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]",
                    ),
                ),
            ),
        ),
        // By EndpointSlice: a backend that is not ready gets no connections.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &["reach only shop/web-2, not shop/web-1"],
            (
                both(&both(&on_8080, &slice(true)), &stable("ingress: []")),
                both(&both(&on_8080, &slice(false)), &stable("ingress: []")),
            ),
        ),
        // Clients outside.
        case(
            "service-partly-reachable",
            Warning,
            "spec.ports[0]",
            &["clients outside (198.51.100.0/24)"],
            (
                both(
                    &local,
                    &both(
                        &named("shop", "p", "{}", "ingress: []"),
                        &named(
                            "shop",
                            "q",
                            "{matchLabels: {track: stable}}",
                            "ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]",
                        ),
                    ),
                ),
                // Whose address the backends see is not known here.
                both(
                    &local.replace("Local", "Cluster"),
                    &both(
                        &named("shop", "p", "{}", "ingress: []"),
                        &named(
                            "shop",
                            "q",
                            "{matchLabels: {track: stable}}",
                            "ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]",
                        ),
                    ),
                ),
            ),
        ),
        case(
            "service-partly-reachable",
            Info,
            "spec.ports[0]",
            &["reach only shop/web-2"],
            (
                both(
                    &on_8080.replace("{selector", "{clusterIP: None, selector"),
                    &stable("ingress: []"),
                ),
                on_8080.clone(),
            ),
        ),
    ]
}
