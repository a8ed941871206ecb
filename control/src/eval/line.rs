//! Probes as they are nearly always written, read without a general parser.
//!
//! A million probes are a million small JSON objects, and reading them costs as much as judging
//! them. So a line that is a flat object of known fields, with strings free of escapes and a plain
//! number, is read here in one pass. Anything else, right or wrong, is `serde_json`'s: this reader
//! gives no errors, it only declines. What it takes it reads as `serde_json` does (property test).

use std::borrow::Cow;

use super::probe::{Probe, Word};

/// Reads a line; `None` if it is not of the common shape.
pub(super) fn read(line: &str) -> Option<Probe<'_>> {
    let mut cursor = Cursor { text: line, at: 0 };
    let (mut from, mut to, mut protocol, mut port) = (None, None, None, None);
    cursor.expect(b'{')?;
    loop {
        let key = cursor.string()?;
        cursor.expect(b':')?;
        let again = match key {
            "from" => from.replace(cursor.string()?).is_some(),
            "to" => to.replace(cursor.string()?).is_some(),
            "protocol" => protocol.replace(cursor.string()?).is_some(),
            "port" => port.replace(cursor.number()?).is_some(),
            _ => return None,
        };
        match cursor.next()? {
            _ if again => return None,
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    cursor.is_at_end().then_some(())?;
    Some(Probe {
        from: Cow::Borrowed(from?),
        to: Cow::Borrowed(to?),
        protocol: protocol.map(|text| Word(Cow::Borrowed(text))),
        port,
    })
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn skip_space(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.at += rest.iter().take_while(space).count();
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.text.as_bytes().get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = self.text.get(self.at..)?;
        let end = rest.bytes().position(|b| b == b'"' || b == b'\\' || b < 0x20)?;
        if rest.as_bytes()[end] != b'"' {
            return None;
        }
        self.at += end + 1;
        rest.get(..end)
    }

    /// A whole number of at most nine digits, without sign or leading zero.
    fn number(&mut self) -> Option<u32> {
        self.skip_space();
        let rest = self.text.get(self.at..)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=9).contains(&digits) || (digits > 1 && rest.starts_with('0')) {
            return None;
        }
        self.at += digits;
        // What goes on (`1.5`, `1e3`) is no `,` or `}` and is declined by the caller.
        rest[..digits].parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// The fields of a probe, to be compared.
    fn parts<'p>(probe: &'p Probe<'_>) -> (&'p str, &'p str, Option<&'p str>, Option<u32>) {
        (&probe.from, &probe.to, probe.protocol.as_ref().map(|word| &*word.0), probe.port)
    }

    #[test]
    fn the_common_shapes_are_taken() {
        for line in [
            r#"{"from":"a/b","to":"10.0.0.1","protocol":"TCP","port":80}"#,
            r#"{"from": "a/b", "to": "fd00::1", "protocol": "ICMP"}"#,
            " {\"port\":0 ,\"to\":\"ä\",\t\"from\":\"\"} \r\n",
        ] {
            let general: Probe<'_> = serde_json::from_str(line).unwrap();
            let probe = read(line).expect(line);
            assert_eq!(parts(&probe), parts(&general), "{line}");
        }
    }

    #[test]
    fn all_else_is_declined() {
        for line in [
            "",
            "{}",
            "[]",
            r#"{"from":"a"}"#,
            r#"{"from":"a","to":"b","port":null}"#,
            r#"{"from":"a","to":"b","port":01}"#,
            r#"{"from":"a","to":"b","port":1.5}"#,
            r#"{"from":"a","to":"b","port":1e3}"#,
            r#"{"from":"a","to":"b","port":-1}"#,
            r#"{"from":"a","to":"b","port":4294967296}"#,
            r#"{"from":"a","to":"b","from":"a"}"#,
            r#"{"from":"a","to":"b",}"#,
            r#"{"from":"a","to":"b"}}"#,
            r#"{"from":"a","to":"b"} {"#,
            r#"{"from":"a","to":"b","x":1}"#,
            r#"{"from":"a\u0041","to":"b"}"#,
            r#"{"from":"a","to":"b"#,
            "{\"from\":\"a\tb\",\"to\":\"b\"}",
        ] {
            assert!(read(line).is_none(), "{line}");
        }
    }

    proptest! {
        /// Whatever is taken is what `serde_json` reads; it takes nothing that is wrong.
        #[test]
        fn what_is_taken_is_read_alike(pieces in prop::collection::vec(select(vec![
            "{", "}", ",", ":", "\"from\"", "\"to\"", "\"protocol\"", "\"port\"", "\"a/b\"",
            "\"ä\"", "\"\\n\"", "\"", "80", "0", "007", "1.5", "null", " ", "\t", "\u{1}",
            "{\"from\":\"x\",\"to\":\"y\"", ",\"port\":1", ",\"protocol\":\"UDP\"",
        ]), 0..12)) {
            let line = pieces.concat();
            if let Some(probe) = read(&line) {
                let general: Probe<'_> = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(parts(&probe), parts(&general));
            }
        }
    }
}
