//! A cursor over a value tree that knows its path and collects problems instead of stopping.
//!
//! serde's derive stops at the first error and forgets what it had read. Here every field is
//! visited, so that one run names all that is wrong, and so that the parts of a refused policy
//! that say *where it isolates* are still known.

use super::document::{Node, Value};

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path from the object's root, `spec.ingress[0].ports[0].port`.
    pub path: String,
    /// Line in the file, from 1; 0 if unknown.
    pub line: u32,
    /// What is wrong and what to write instead.
    pub message: String,
    /// The object can be honoured all the same.
    pub warning: bool,
}

/// All problems of one object.
#[derive(Debug, Default)]
pub struct Problems {
    /// In the order of the fields.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Notes a problem at a place.
    pub fn at(&mut self, place: &Place<'_>, message: impl Into<String>) {
        self.push(place, message.into(), false);
    }

    /// Notes something that does not keep the object from being honoured.
    pub fn warn(&mut self, place: &Place<'_>, message: impl Into<String>) {
        self.push(place, message.into(), true);
    }

    fn push(&mut self, place: &Place<'_>, message: String, warning: bool) {
        self.list.push(Problem {
            path: place.path.clone(),
            line: place.node.line,
            message,
            warning,
        });
    }

    /// How many problems refuse the object.
    pub fn refusals(&self) -> usize {
        self.list.iter().filter(|problem| !problem.warning).count()
    }
}

/// A value within an object, and the path to it.
#[derive(Debug, Clone)]
pub struct Place<'n> {
    /// The value.
    pub node: &'n Node,
    /// The path from the object's root; empty for the object itself.
    pub path: String,
}

impl<'n> Place<'n> {
    /// The object itself.
    pub fn root(node: &'n Node) -> Self {
        Self { node, path: String::new() }
    }

    /// The line of the value.
    pub fn line(&self) -> u32 {
        self.node.line
    }

    fn child(&self, key: &str, node: &'n Node) -> Place<'n> {
        let path =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Place { node, path }
    }

    /// A field that is present and not null. Kubernetes' decoder leaves a field at its zero value
    /// for an explicit null, so the two are one.
    pub fn field(&self, key: &str) -> Option<Place<'n>> {
        let node = self.node.get(key)?;
        (node.value != Value::Null).then(|| self.child(key, node))
    }

    /// Whether this is a mapping; a problem is noted if not.
    pub fn is_map(&self, problems: &mut Problems) -> bool {
        let is = matches!(self.node.value, Value::Map(_));
        if !is {
            self.expected("a mapping", problems);
        }
        is
    }

    /// Notes every field that is not in `known`.
    pub fn only(&self, known: &[&str], problems: &mut Problems) {
        let Value::Map(entries) = &self.node.value else { return };
        for (key, node) in entries {
            if !known.contains(&key.as_str()) {
                problems.at(
                    &self.child(key, node),
                    format!("unknown field `{key}`; known here: {}", known.join(", ")),
                );
            }
        }
    }

    /// The entries of a mapping.
    pub fn entries(&self, problems: &mut Problems) -> Vec<(&'n str, Place<'n>)> {
        match &self.node.value {
            Value::Map(entries) => {
                entries.iter().map(|(key, node)| (key.as_str(), self.child(key, node))).collect()
            }
            _ => {
                self.expected("a mapping", problems);
                Vec::new()
            }
        }
    }

    /// The items of a list that are written; those that are not are noted.
    pub fn items(&self, problems: &mut Problems) -> Vec<Place<'n>> {
        let mut places = self.slots(problems);
        places.retain(|place| place.is_written(problems));
        places
    }

    /// All items of a list, null ones too.
    pub fn slots(&self, problems: &mut Problems) -> Vec<Place<'n>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list", problems);
            return Vec::new();
        };
        let place = |(i, node)| Place { node, path: format!("{}[{i}]", self.path) };
        items.iter().enumerate().map(place).collect()
    }

    /// Whether an item of a list is more than null, which is a problem: the API's decoder would
    /// read it as an empty object, which in a list of rules means "everything", and a file that is
    /// being written ends like this.
    pub fn is_written(&self, problems: &mut Problems) -> bool {
        let is = self.node.value != Value::Null;
        if !is {
            problems.at(self, "nothing is written here; write {} if an empty one is meant");
        }
        is
    }

    /// A string.
    pub fn string(&self, problems: &mut Problems) -> Option<&'n str> {
        match &self.node.value {
            Value::String(text) => Some(text),
            _ => {
                self.expected("a string (quote it)", problems);
                None
            }
        }
    }

    /// A whole number.
    pub fn integer(&self, problems: &mut Problems) -> Option<i64> {
        match self.node.value {
            Value::Integer(number) => Some(number),
            _ => {
                self.expected("a whole number", problems);
                None
            }
        }
    }

    /// A boolean.
    pub fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.expected("true or false", problems);
                None
            }
        }
    }

    /// Notes that the value's type is wrong.
    pub fn expected(&self, what: &str, problems: &mut Problems) {
        problems.at(self, format!("is {}, must be {what}", self.node.value.type_name()));
    }
}
