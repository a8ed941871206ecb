//! What the binary is told on its standard input: a JSON object a line, each answered by a line.
//!
//! ```text
//! {"do":"compact"}                                             {"ok":{"version":7}}
//! {"do":"cut","kind":"Pod","how":"mid_line"}                   {"ok":{"watches":1}}
//! {"do":"fault","fault":{"verb":"list","times":2,
//!        "action":{"refuse":{"code":429,"retry_after":1}}}}    {"ok":null}
//! {"do":"nonsense"}                                            {"error":"unknown variant …"}
//! ```

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::{Holder, rules_of};
use crate::fault::Fault;
use crate::hub::{Cut, Release};
use crate::kind::Kind;
use crate::object::Key;
use crate::server::ApiServer;
use crate::world::World;

/// A line.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Command {
    Apply {
        object: Value,
    },
    ApplyYaml {
        text: String,
    },
    Patch {
        kind: String,
        #[serde(default)]
        namespace: String,
        name: String,
        patch: Value,
    },
    Delete {
        kind: String,
        #[serde(default)]
        namespace: String,
        name: String,
    },
    Terminate {
        namespace: String,
        name: String,
    },
    Get {
        kind: String,
        #[serde(default)]
        namespace: String,
        name: String,
    },
    List {
        kind: String,
    },
    World(World),
    Version,
    Compact,
    Restore {
        version: u64,
    },
    Watches {
        kind: String,
    },
    Hold {
        kind: String,
    },
    Release {
        kind: String,
        how: Release,
    },
    Repeat {
        kind: String,
        count: usize,
    },
    Say {
        kind: String,
        line: String,
    },
    Bookmark {
        kind: String,
    },
    Cut {
        kind: String,
        how: Cut,
    },
    SentAt {
        version: u64,
    },
    Fault {
        fault: Fault,
    },
    ClearFaults,
    Requests,
    ClearRequests,
    Complaints,
    /// Without a ClusterRole the holder may do everything; without seconds for ever.
    AddToken {
        token: String,
        user: String,
        cluster_role: Option<String>,
        seconds: Option<u64>,
    },
    RemoveToken {
        token: String,
    },
    RotateCa,
    CaPem,
    Kubeconfig {
        token: Option<String>,
    },
    AddGroup {
        group: String,
        version: String,
    },
    Freeze,
    Thaw,
    CloseConnections,
    Down,
    Up,
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name || kind.plural() == name)
        .ok_or_else(|| format!("{name:?} is no kind that is here"))
}

/// Does what a line says; the line to answer.
#[must_use]
pub fn execute(server: &ApiServer, line: &str) -> String {
    let result = serde_json::from_str(line)
        .map_err(|error| error.to_string())
        .and_then(|command| perform(server, command));
    match result {
        Ok(value) => json!({"ok": value}),
        Err(error) => json!({"error": error}),
    }
    .to_string()
}

fn perform(server: &ApiServer, command: Command) -> Result<Value, String> {
    let version = |result: Result<u64, crate::Refusal>| match result {
        Ok(version) => Ok(json!({"version": version})),
        Err(refusal) => Err(refusal.message),
    };
    let done = |result: std::io::Result<()>| match result {
        Ok(()) => Ok(Value::Null),
        Err(error) => Err(error.to_string()),
    };
    let watches = |count: usize| Ok(json!({"watches": count}));
    match command {
        Command::Apply { object } => return version(server.apply(object)),
        Command::ApplyYaml { text } => return version(server.apply_yaml(&text)),
        Command::Patch { kind: k, namespace, name, patch } => {
            return version(server.patch(kind(&k)?, &Key::new(&namespace, &name), &patch));
        }
        Command::Delete { kind: k, namespace, name } => {
            return version(server.delete(kind(&k)?, &Key::new(&namespace, &name)));
        }
        Command::Terminate { namespace, name } => {
            return version(server.terminate(&Key::new(&namespace, &name)));
        }
        Command::Get { kind: k, namespace, name } => {
            return Ok(json!(server.get(kind(&k)?, &Key::new(&namespace, &name))));
        }
        Command::List { kind: k } => return Ok(json!(server.list(kind(&k)?))),
        Command::World(world) => return version(world.load(server).map(|()| server.version())),
        Command::Version => return version(Ok(server.version())),
        Command::Compact => {
            server.compact();
            return version(Ok(server.version()));
        }
        Command::Restore { version: wanted } => {
            server.restore(wanted).map_err(|error| error.to_string())?;
            return version(Ok(server.version()));
        }
        Command::Watches { kind: k } => return watches(server.watches(kind(&k)?)),
        Command::Hold { kind: k } => server.hold(kind(&k)?),
        Command::Release { kind: k, how } => server.release(kind(&k)?, how),
        Command::Repeat { kind: k, count } => server.repeat(kind(&k)?, count),
        Command::Say { kind: k, line } => server.say(kind(&k)?, &line),
        Command::Bookmark { kind: k } => return watches(server.bookmark(kind(&k)?)),
        Command::Cut { kind: k, how } => return watches(server.cut(kind(&k)?, how)),
        Command::SentAt { version } => return Ok(json!(server.sent_at(version))),
        Command::Fault { fault } => server.fault(fault),
        Command::ClearFaults => server.clear_faults(),
        Command::Requests => return Ok(json!(server.requests())),
        Command::ClearRequests => server.clear_requests(),
        Command::Complaints => return Ok(json!(server.take_complaints())),
        Command::AddToken { token, user, cluster_role, seconds } => {
            let holder = match cluster_role {
                Some(yaml) => Holder::with_rules(&user, rules_of(&yaml)?),
                None => Holder::admin(&user),
            };
            server.add_token(
                &token,
                match seconds {
                    Some(seconds) => holder.expiring_in(Duration::from_secs(seconds)),
                    None => holder,
                },
            );
        }
        Command::RemoveToken { token } => server.remove_token(&token),
        Command::RotateCa => return done(server.rotate_ca()),
        Command::CaPem => return Ok(json!(server.ca_pem())),
        Command::Kubeconfig { token } => return Ok(json!(server.kubeconfig(token.as_deref()))),
        Command::AddGroup { group, version } => server.add_group(&group, &version),
        Command::Freeze => server.freeze(),
        Command::Thaw => server.thaw(),
        Command::CloseConnections => return done(server.close_connections()),
        Command::Down => return done(server.down()),
        Command::Up => return done(server.up()),
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Settings;

    #[test]
    fn lines() {
        let server = ApiServer::start(Settings::default()).unwrap();
        let ask = |line: &str| -> Value { serde_json::from_str(&execute(&server, line)).unwrap() };
        let applied = ask(
            r#"{"do":"apply","object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"}}}"#,
        );
        assert_eq!(applied, json!({"ok": {"version": 2}}));
        assert_eq!(ask(r#"{"do":"list","kind":"pods"}"#)["ok"][0]["metadata"]["name"], "web");
        assert_eq!(ask(r#"{"do":"cut","kind":"Pod","how":"mid_line"}"#)["ok"]["watches"], 0);
        assert_eq!(ask(r#"{"do":"world","pods":3,"nodes":2,"namespaces":1}"#)["ok"]["version"], 8);
        assert_eq!(server.count(Kind::Pod), 4);
        for line in [
            "",
            "{}",
            r#"{"do":"nonsense"}"#,
            r#"{"do":"list","kind":"Secret"}"#,
            r#"{"do":"delete","kind":"Pod","name":"nobody"}"#,
            r#"{"do":"world","pod":3}"#,
            r#"{"do":"add_token","token":"a","user":"b","cluster_role":"kind: Pod"}"#,
        ] {
            assert!(ask(line)["error"].is_string(), "{line}");
        }
    }
}
