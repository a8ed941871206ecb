//! Our entry into a list of plugins, and out of it, with everything else left as it is.
//!
//! A list is another's file: its plugins, their order, its layout. Our entry is put behind the
//! last plugin, with the white space that stands before that one:
//!
//! ```text
//!     { "type": "portmap" }⟨,\n    { "type": "weir-cni", … }⟩
//!   ]
//! ```
//!
//! Taking it out removes all between the end of the entry before it and its own end: exactly
//! what was put in, so the file is as it was to the byte. An entry of ours is told by its
//! `type` alone, and so is found again after somebody has laid the file out anew.
//!
//! An entry of ours that another plugin has been put behind stays where it is: all that matters
//! is that the interface is made before. Two installers that both want to be the last must not
//! fight over it.

use std::ops::Range;

use crate::{PLUGIN, text};

/// Why a list cannot be edited.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// Not JSON.
    #[error("is no JSON: {0}")]
    Syntax(String),
    /// JSON, but no list of plugins.
    #[error("has no list of plugins")]
    NoPlugins,
    /// There is nothing to be chained behind.
    #[error("has no plugin that makes an interface: {PLUGIN} must be chained behind one")]
    Alone,
}

/// The list with `entry` in it; `None` if it is there already.
///
/// `entry` is the text of a JSON object whose `type` is ours.
///
/// # Errors
/// [`SpliceError`].
pub fn insert(list: &str, entry: &str) -> Result<Option<String>, SpliceError> {
    let plugins = Plugins::find(list)?;
    if plugins.elements.len() == plugins.ours.len() {
        return Err(SpliceError::Alone);
    }
    if let [index] = plugins.ours[..]
        && index > 0
    {
        let range = plugins.elements[index].clone();
        if same(&list[range.clone()], entry) {
            return Ok(None);
        }
        let mut changed = list.to_owned();
        changed.replace_range(range, entry);
        return Ok(Some(changed));
    }
    let mut changed = plugins.without_ours(list);
    // What is left has another's plugin, so there is a last one.
    let last = Plugins::find(&changed)?.elements.pop().ok_or(SpliceError::Alone)?;
    let before = &changed[..last.start];
    let space = before[before.trim_ascii_end().len()..].to_owned();
    changed.insert_str(last.end, &format!(",{space}{entry}"));
    Ok(Some(changed))
}

/// The list without any entry of ours; `None` if there is none.
///
/// # Errors
/// [`SpliceError`], but not `Alone`.
pub fn remove(list: &str) -> Result<Option<String>, SpliceError> {
    let plugins = Plugins::find(list)?;
    Ok((!plugins.ours.is_empty()).then(|| plugins.without_ours(list)))
}

/// Whether a list has an entry of ours.
pub fn is_in(list: &str) -> bool {
    Plugins::find(list).is_ok_and(|plugins| !plugins.ours.is_empty())
}

/// Where the plugins of a list stand.
struct Plugins {
    elements: Vec<Range<usize>>,
    /// Which of them are ours, in order.
    ours: Vec<usize>,
}

impl Plugins {
    fn find(list: &str) -> Result<Plugins, SpliceError> {
        let whole = text::value(list).map_err(|e| SpliceError::Syntax(e.to_string()))?;
        let elements = text::members(list, &whole)
            .and_then(|members| text::elements(list, &text::member(&members, "plugins")?.value))
            .ok_or(SpliceError::NoPlugins)?;
        let ours = (0..elements.len())
            .filter(|&index| kind(list, &elements[index]).as_deref() == Some(PLUGIN))
            .collect();
        Ok(Plugins { elements, ours })
    }

    fn without_ours(&self, list: &str) -> String {
        let kept = (0..self.elements.len()).find(|index| !self.ours.contains(index));
        let mut rest = list.to_owned();
        // From the back: what is before stays where it is.
        for &index in self.ours.iter().rev() {
            let own = &self.elements[index];
            // With the comma before it, or, if nothing stays before it, with the one behind.
            let range = if kept.is_some_and(|kept| kept < index) {
                self.elements[index - 1].end..own.end
            } else {
                own.start..self.elements.get(index + 1).map_or(own.end, |behind| behind.start)
            };
            rest.replace_range(range, "");
        }
        rest
    }
}

/// The `type` of a plugin's entry.
pub fn kind(list: &str, entry: &Range<usize>) -> Option<String> {
    let members = text::members(list, entry)?;
    text::string(list, &text::member(&members, "type")?.value)
}

/// Whether two texts say the same, however they are laid out.
fn same(a: &str, b: &str) -> bool {
    let read = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    read(a).is_some() && read(a) == read(b)
}

#[cfg(test)]
mod tests;
