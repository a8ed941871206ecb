//! Where in a JSON text a value stands.
//!
//! What another plugin has said, and what is in another plugin's file, must stay as it is to
//! the byte: order of keys, numbers' spelling, white space. So a text is not read into values
//! and written again, but cut at the right places.
//!
//! As with the runtimes (Go's `encoding/json` into a map), of several members of one name the
//! last counts. Nothing here panics, and nothing recurses: text comes from outside.

use std::ops::Range;

use serde::de::IgnoredAny;

/// One member of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, escapes resolved.
    pub name: String,
    /// Where its value stands.
    pub value: Range<usize>,
}

/// Where the one value of a text stands, without the white space around it.
///
/// # Errors
/// What the parser says, when the text is not one JSON value.
pub fn value(text: &str) -> Result<Range<usize>, serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(text)?;
    let start = text.len() - text.trim_ascii_start().len();
    Ok(start..text.trim_ascii_end().len())
}

/// The members of the object that stands at `range`; `None` if no object stands there.
/// The text must have passed [`value`].
pub fn members(text: &str, range: &Range<usize>) -> Option<Vec<Member>> {
    let mut found = Vec::new();
    let mut cursor = Cursor::enter(text, range, b'{')?;
    while let Some(name) = cursor.next_value()? {
        cursor.skip(b':')?;
        let name = serde_json::from_str(text.get(name)?).ok()?;
        let value = cursor.next_value()??;
        found.push(Member { name, value });
    }
    Some(found)
}

/// Where the elements of the array at `range` stand; `None` if no array stands there.
/// The text must have passed [`value`].
pub fn elements(text: &str, range: &Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut cursor = Cursor::enter(text, range, b'[')?;
    while let Some(value) = cursor.next_value()? {
        found.push(value);
    }
    Some(found)
}

/// The last member of that name: the one that counts.
pub fn member<'a>(members: &'a [Member], name: &str) -> Option<&'a Member> {
    members.iter().rev().find(|member| member.name == name)
}

/// The string that stands at `range`; `None` if it is something else.
pub fn string(text: &str, range: &Range<usize>) -> Option<String> {
    serde_json::from_str(text.get(range.clone())?).ok()
}

/// Goes through what stands between two brackets.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    fn enter(text: &'a str, range: &Range<usize>, open: u8) -> Option<Cursor<'a>> {
        let bytes = text.as_bytes();
        (bytes.get(range.start) == Some(&open)).then_some(())?;
        Some(Cursor { bytes, at: range.start + 1, end: range.end.checked_sub(1)? })
    }

    /// The next value, past a comma; the inner `None` at the end, the outer if this is no JSON.
    fn next_value(&mut self) -> Option<Option<Range<usize>>> {
        while self.at < self.end
            && matches!(self.bytes.get(self.at)?, b' ' | b'\t' | b'\r' | b'\n' | b',')
        {
            self.at += 1;
        }
        if self.at >= self.end {
            return Some(None);
        }
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.skip_string()?;
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        self.at += 1;
                        break;
                    }
                }
                _ if depth == 0 => {
                    self.skip_scalar()?;
                    break;
                }
                _ => {}
            }
            self.at += 1;
        }
        Some(Some(start..self.at))
    }

    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                _ => self.at += 1,
            }
        }
    }

    fn skip_scalar(&mut self) -> Option<()> {
        while self.at < self.end
            && !matches!(self.bytes.get(self.at)?, b' ' | b'\t' | b'\r' | b'\n' | b',')
        {
            self.at += 1;
        }
        Some(())
    }

    /// Past white space and one byte that must be there.
    fn skip(&mut self, wanted: u8) -> Option<()> {
        while self.bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        (*self.bytes.get(self.at)? == wanted).then(|| self.at += 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<(String, String)> {
        let range = value(text).unwrap();
        members(text, &range)
            .unwrap()
            .into_iter()
            .map(|member| (member.name, text[member.value].to_owned()))
            .collect()
    }

    #[test]
    fn members_stand_where_they_are_written() {
        let text = " {\"a\" :1 , \"b\\u0041\":{\"a\":[\"]}\",{}]},\n\"c\":[ ] ,\"a\":\"\\\\\\\"\" , \"d\" : null} ";
        let expected = [
            ("a", "1"),
            ("bA", "{\"a\":[\"]}\",{}]}"),
            ("c", "[ ]"),
            ("a", "\"\\\\\\\"\""),
            ("d", "null"),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(names(text), expected);
        let all = members(text, &value(text).unwrap()).unwrap();
        assert_eq!(&text[member(&all, "a").unwrap().value.clone()], "\"\\\\\\\"\"");
        assert_eq!(member(&all, "A"), None);
    }

    #[test]
    fn elements_stand_where_they_are_written() {
        let text = "[1,[2,3] ,\t\"x,\", {\"y\": [4]}\n]";
        let found: Vec<_> = elements(text, &value(text).unwrap())
            .unwrap()
            .into_iter()
            .map(|range| &text[range])
            .collect();
        assert_eq!(found, ["1", "[2,3]", "\"x,\"", "{\"y\": [4]}"]);
        for empty in ["[]", "[ \n ]"] {
            assert_eq!(elements(empty, &value(empty).unwrap()), Some(vec![]));
        }
    }

    #[test]
    fn other_values_have_neither() {
        for text in ["1", "\"{}\"", "null", "[]"] {
            assert_eq!(members(text, &value(text).unwrap()), None);
        }
        assert_eq!(elements("{}", &(0..2)), None);
        assert!(value("{} {}").is_err() && value("").is_err() && value("{").is_err());
    }

    /// Any JSON value, not too deep.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_stands_there_is_what_the_parser_reads(wanted in json(), pretty in any::<bool>()) {
            let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
            let text = format!(" {}\n", write(&wanted).unwrap());
            let range = value(&text).unwrap();
            match &wanted {
                serde_json::Value::Object(map) => {
                    let found = members(&text, &range).unwrap();
                    prop_assert_eq!(found.len(), map.len());
                    for member in found {
                        let read: serde_json::Value =
                            serde_json::from_str(&text[member.value]).unwrap();
                        prop_assert_eq!(Some(&read), map.get(&member.name));
                    }
                }
                serde_json::Value::Array(list) => {
                    let found = elements(&text, &range).unwrap();
                    let read: Vec<serde_json::Value> = found
                        .into_iter()
                        .map(|range| serde_json::from_str(&text[range]).unwrap())
                        .collect();
                    prop_assert_eq!(&read, list);
                }
                _ => prop_assert_eq!(members(&text, &range), None),
            }
        }

        #[test]
        fn nothing_panics(text in "[\\[\\]{},:\"\\\\ a1]{0,40}", from in 0_usize..45, to in 0_usize..45) {
            _ = value(&text);
            _ = members(&text, &(from..to));
            _ = elements(&text, &(from..to));
        }
    }
}
