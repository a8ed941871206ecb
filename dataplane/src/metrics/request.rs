//! The little of HTTP/1.1 that a scraper and a kubelet's probe need (RFC 9112): one GET a
//! connection, whose head is read and whose body, if there is one, is not.
//!
//! Invariants
//! - Whatever the bytes, the answer is one of three, without a panic and without looking at more
//!   than [`MAX_HEAD`] of them.
//! - More bytes never change an answer other than [`Parsed::Incomplete`]: it does not matter in
//!   which pieces a request comes.
#![forbid(unsafe_code)]

/// Longest head of a request, in bytes. Prometheus sends some 400.
pub const MAX_HEAD: usize = 4096;

/// What the bytes of a connection amount to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The head goes on.
    Incomplete,
    /// Somebody wants to read this path (without what follows a `?`).
    Get(&'a str),
    /// To be answered with this status.
    Refused(u16),
}

/// Reads the head of a request.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let seen = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") else {
        return match bytes.len() > MAX_HEAD {
            true => Parsed::Refused(431),
            false => Parsed::Incomplete,
        };
    };
    // Visible ASCII, spaces and tabs; header values may hold more, ones that matter here do not.
    let head = seen.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    let Some(head) = head else { return Parsed::Refused(400) };
    let mut lines = head.split("\r\n");
    let refused_or = lines.next().map_or(Parsed::Refused(400), request_line);
    if lines.all(is_header) { refused_or } else { Parsed::Refused(400) }
}

/// `GET /path?query HTTP/1.1`
fn request_line(line: &str) -> Parsed<'_> {
    let mut words = line.split(' ');
    let (method, target, version) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) => (method, target, version),
        _ => return Parsed::Refused(400),
    };
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let is_visible = target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(method) || !is_visible || !path.starts_with('/') {
        return Parsed::Refused(400);
    }
    match (version, method) {
        ("HTTP/1.1" | "HTTP/1.0", "GET") => Parsed::Get(path),
        ("HTTP/1.1" | "HTTP/1.0", _) => Parsed::Refused(405),
        _ if version.starts_with("HTTP/") => Parsed::Refused(505),
        _ => Parsed::Refused(400),
    }
}

/// `Name: value`. One that continues the line before is of the past, and refused.
fn is_header(line: &str) -> bool {
    line.split_once(':').is_some_and(|(name, value)| {
        is_token(name) && value.chars().all(|c| c == '\t' || !c.is_control())
    })
}

/// A word that needs no quotes (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_and_what_is_refused() {
        let long = format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let cases: &[(&str, Parsed<'_>)] = &[
            ("", Parsed::Incomplete),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", Parsed::Incomplete),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Parsed::Get("/metrics")),
            ("GET /healthz HTTP/1.0\r\n\r\n", Parsed::Get("/healthz")),
            ("GET /metrics?name[]=x HTTP/1.1\r\nHost: a\r\n\r\nbody", Parsed::Get("/metrics")),
            ("POST /metrics HTTP/1.1\r\n\r\n", Parsed::Refused(405)),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Parsed::Refused(405)),
            ("GET /metrics HTTP/2.0\r\n\r\n", Parsed::Refused(505)),
            ("GET /metrics\r\n\r\n", Parsed::Refused(400)),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Parsed::Refused(400)),
            ("GET http://a/metrics HTTP/1.1\r\n\r\n", Parsed::Refused(400)),
            ("GET * HTTP/1.1\r\n\r\n", Parsed::Refused(400)),
            ("G\tT / HTTP/1.1\r\n\r\n", Parsed::Refused(400)),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", Parsed::Refused(400)),
            ("GET / HTTP/1.1\r\nHost a\r\n\r\n", Parsed::Refused(400)),
            ("GET / HTTP/1.1\r\nHost: a\r\n more\r\n\r\n", Parsed::Refused(400)),
            ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Parsed::Refused(400)),
            ("\r\n\r\n", Parsed::Refused(400)),
            (&long, Parsed::Refused(431)),
        ];
        for (text, expect) in cases {
            assert_eq!(parse(text.as_bytes()), *expect, "{text:?}");
        }
    }

    /// Pieces of requests, whole and broken: random bytes alone would hardly ever end a head.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "GET",
            "PUT",
            " ",
            "/",
            "/metrics",
            "/readyz?a=b",
            "HTTP/1.1",
            "HTTP/1.0",
            "HTTP/9",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            ":",
            "Host: a",
            "Content-Length: 9",
            "\t",
            "\0",
        ];
        let word =
            proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
        let noise = proptest::collection::vec(any::<u8>(), 0..8);
        let piece = prop_oneof![6 => word, 1 => noise];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_is_read_into_noise(bytes in pieces()) {
            let whole = parse(&bytes);
            let mut answered = None;
            for length in 0..=bytes.len() {
                match (parse(&bytes[..length]), answered) {
                    (Parsed::Incomplete, None) => prop_assert!(length <= MAX_HEAD),
                    (answer, None) => answered = Some(answer),
                    (answer, Some(first)) => prop_assert_eq!(answer, first),
                }
            }
            prop_assert_eq!(answered.unwrap_or(Parsed::Incomplete), whole);
            if let Parsed::Get(path) = whole {
                let start = [b"GET ", path.as_bytes()].concat();
                prop_assert!(bytes.starts_with(&start) && path.starts_with('/'));
                prop_assert!(path.len() < MAX_HEAD && !path.contains(['?', ' ', '\r', '\n']));
            }
        }

        #[test]
        fn a_head_may_be_so_long_and_no_longer(length in MAX_HEAD - 64..MAX_HEAD + 64) {
            let text = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(length - 23));
            prop_assert_eq!(text.len(), length);
            let expect = if length <= MAX_HEAD { Parsed::Get("/") } else { Parsed::Refused(431) };
            prop_assert_eq!(parse(text.as_bytes()), expect);
        }
    }
}
