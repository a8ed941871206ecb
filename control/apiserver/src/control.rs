//! What tests do with a server that runs: its objects, its watches, its requests, its tokens.

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::access::Holder;
use crate::fault::Fault;
use crate::hub::{Cut, Release};
use crate::journal::Asked;
use crate::kind::Kind;
use crate::object::{Key, Object};
use crate::read::expired_line;
use crate::server::ApiServer;
use crate::state::Manners;
use crate::status::Refusal;
use crate::store::Gone;
use crate::write::{Part, Removal, Removed};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(2);

impl ApiServer {
    // Objects.

    /// Makes or replaces an object as it is given, `status` included; its version. Another
    /// `metadata.uid` than before is another object: the old one is removed first.
    ///
    /// # Errors
    /// It has no known kind, or no name.
    pub fn apply(&self, object: Value) -> Result<u64, Refusal> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let (api, name) = (text("/apiVersion"), text("/kind"));
        let kind = Kind::of_object(api, name)
            .ok_or_else(|| Refusal::bad_request(format!("{api} {name} is no kind that is here")))?;
        let namespace = match text("/metadata/namespace") {
            "" if kind.is_namespaced() => "default",
            namespace => namespace,
        };
        let key = Key::new(namespace, text("/metadata/name"));
        let uid = text("/metadata/uid").to_owned();
        let mut state = self.shared.lock();
        let before = state.store.get(kind, &key).map(|before| before.value(kind));
        let is_same = before.as_ref().is_some_and(|before| {
            uid.is_empty() || before["metadata"]["uid"].as_str() == Some(&uid)
        });
        if is_same {
            return Ok(state.replace(kind, &key, object, Part::All, false)?.version);
        }
        if before.is_some() {
            state.commit(kind, &key, None);
        }
        let strict = std::mem::replace(&mut state.manners.needs_namespaces, false);
        let result = state.create(kind, &key.namespace, object, Part::All, false);
        state.manners.needs_namespaces = strict;
        Ok(result?.1.version)
    }

    /// Applies every document of a YAML text, and every item of a List; the last version.
    ///
    /// # Errors
    /// It is no YAML, or as [`ApiServer::apply`].
    pub fn apply_yaml(&self, yaml: &str) -> Result<u64, Refusal> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            match document {
                Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                    if let Some(Value::Array(items)) = list.remove("items") {
                        for item in items {
                            self.apply(item)?;
                        }
                    }
                }
                document => drop(self.apply(document)?),
            }
        }
        Ok(self.version())
    }

    /// Takes an object with this text as [`Object::of_rest`] says; for many of them.
    pub fn load(&self, kind: Kind, key: &Key, rest: &str) {
        self.shared.lock().commit(kind, key, Some(&Object::of_rest(0, rest)));
    }

    /// Merges a patch into an object, `status` included; its version.
    ///
    /// # Errors
    /// 404 and what is in [`State::patch`](crate::state::State::patch).
    pub fn patch(&self, kind: Kind, key: &Key, patch: &Value) -> Result<u64, Refusal> {
        let object = self.shared.lock().patch(kind, key, patch, Part::All, false)?;
        Ok(object.version)
    }

    /// Removes an object at once; the version of its removal.
    ///
    /// # Errors
    /// 404
    pub fn delete(&self, kind: Kind, key: &Key) -> Result<u64, Refusal> {
        let mut state = self.shared.lock();
        let at_once = Removal { grace: Some(0), ..Removal::default() };
        state.remove(kind, key, &at_once, false)?;
        Ok(state.store.version())
    }

    /// Marks a Pod as terminating, as `kubectl delete` does; its version.
    ///
    /// # Errors
    /// 404
    pub fn terminate(&self, key: &Key) -> Result<u64, Refusal> {
        let mut state = self.shared.lock();
        let gently = Removal { grace: Some(30), ..Removal::default() };
        match state.remove(Kind::Pod, key, &gently, false)? {
            Removed::Marked(object) => Ok(object.version),
            Removed::Gone(_) => Ok(state.store.version()),
        }
    }

    /// The object as it is now.
    #[must_use]
    pub fn get(&self, kind: Kind, key: &Key) -> Option<Value> {
        self.shared.lock().store.get(kind, key).map(|object| object.value(kind))
    }

    /// All objects of the kind, in order.
    #[must_use]
    pub fn list(&self, kind: Kind) -> Vec<Value> {
        let state = self.shared.lock();
        let value = |key: &Key| state.store.get(kind, key).map(|object| object.value(kind));
        state.store.keys(kind).filter_map(value).collect()
    }

    /// How many objects of the kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.shared.lock().store.count(kind)
    }

    /// The resourceVersion of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.lock().store.version()
    }

    /// Forgets all history: whatever needs an older version has 410. Open watches go on.
    pub fn compact(&self) {
        let mut state = self.shared.lock();
        let now = state.store.version();
        state.store.compact(now);
    }

    /// Closes every connection and has everything be as it was at the version, the counter
    /// included: an etcd restored from a backup.
    ///
    /// # Errors
    /// The version is compacted away, or the server's thread is over.
    pub fn restore(&self, version: u64) -> io::Result<()> {
        let gone = |gone: Gone| {
            io::Error::other(format!("changes before version {} are compacted away", gone.horizon))
        };
        self.shared.lock().restore(version).map_err(gone)?;
        self.close_connections()
    }

    // Watches.

    /// How many watches of the kind are open.
    #[must_use]
    pub fn watches(&self, kind: Kind) -> usize {
        self.shared.lock().hub.count(kind)
    }

    /// Waits until so many watches of the kind are open.
    #[must_use]
    pub fn wait_for_watches(&self, kind: Kind, count: usize, patience: Duration) -> bool {
        self.wait(patience, || self.watches(kind) == count)
    }

    /// Waits until the condition holds; whether it does.
    #[must_use]
    pub fn wait(&self, patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        while !holds() {
            if begin.elapsed() > patience {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// From now on watches are told nothing of the kind.
    pub fn hold(&self, kind: Kind) {
        self.shared.lock().hub.hold(kind);
    }

    /// Tells the watches what was held, in this way.
    pub fn release(&self, kind: Kind, how: Release) {
        self.shared.lock().hub.release(kind, how);
    }

    /// Sends the last changes of the kind once more, the oldest first.
    pub fn repeat(&self, kind: Kind, count: usize) {
        let mut state = self.shared.lock();
        let changes = state.store.last(kind, count);
        state.hub.repeat(kind, &changes);
    }

    /// Puts a line, whatever it is, into every watch of the kind.
    pub fn say(&self, kind: Kind, line: &str) {
        self.shared.lock().hub.say(kind, line);
    }

    /// Sends a bookmark to the watches of the kind that take them; how many.
    pub fn bookmark(&self, kind: Kind) -> usize {
        let mut state = self.shared.lock();
        let version = state.store.version();
        state.hub.bookmark(kind, version)
    }

    /// Ends the watches of every kind; how many.
    pub fn cut_all(&self, how: Cut) -> usize {
        Kind::ALL.into_iter().map(|kind| self.cut(kind, how)).sum()
    }

    /// Ends the watches of the kind; how many.
    pub fn cut(&self, kind: Kind, how: Cut) -> usize {
        let mut state = self.shared.lock();
        let line = expired_line(state.store.version(), state.store.version() + 1);
        state.hub.cut(kind, how, &line)
    }

    /// When the event of this version was first handed to a connection, in ns of CLOCK_MONOTONIC.
    #[must_use]
    pub fn sent_at(&self, version: u64) -> Option<u64> {
        self.shared.lock().sent_at(version)
    }

    // Requests.

    /// Has requests go wrong, after those of earlier calls.
    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.add(fault);
    }

    /// No request goes wrong any more.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Every request so far, the oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.lock().journal.requests()
    }

    /// How many requests there were for the kind with this verb (`list`, `watch`, …).
    #[must_use]
    pub fn asked(&self, verb: &str, kind: Kind) -> usize {
        self.shared.lock().journal.count(verb, kind.plural())
    }

    /// Waits until there were at least so many requests for the kind with this verb.
    #[must_use]
    pub fn wait_until_asked(
        &self,
        verb: &str,
        kind: Kind,
        count: usize,
        patience: Duration,
    ) -> bool {
        self.wait(patience, || self.asked(verb, kind) >= count)
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.lock().journal.clear();
    }

    /// What clients did that no correct client does; each is told once.
    #[must_use]
    pub fn take_complaints(&self) -> Vec<String> {
        self.shared.lock().journal.take_complaints()
    }

    /// Changes how the server behaves; requests from now on see it.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.shared.lock().manners);
    }

    /// An API group of somebody else that discovery names.
    pub fn add_group(&self, group: &str, version: &str) {
        self.shared.lock().groups.push((group.to_owned(), version.to_owned()));
    }

    // Tokens.

    /// Gives a token out. From the first on, requests need one.
    pub fn add_token(&self, token: &str, holder: Holder) {
        self.shared.lock().access.add(token, holder);
    }

    /// The token is valid no more; watches that are open go on.
    pub fn remove_token(&self, token: &str) {
        self.shared.lock().access.remove(token);
    }
}
