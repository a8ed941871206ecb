//! Errors as CNI wants them: a JSON object on standard output and a status that is not 0.
//!
//! Runtimes show `msg; details`; the kubelet puts it into the pod's events. So `msg` says
//! what is wrong with which pod, and `details` what to do.

use serde::Serialize;

/// Codes of the CNI specification ("Error"), and our own from 100 on.
pub mod code {
    /// The version of CNI is not one that the plugin speaks.
    pub const VERSION: u32 = 1;
    /// A variable of the environment is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Input could not be read.
    pub const IO: u32 = 5;
    /// Input is no JSON, or not of the shape that CNI defines.
    pub const DECODE: u32 = 6;
    /// The configuration says what cannot be.
    pub const CONFIGURATION: u32 = 7;
    /// It may work later: the runtime is to try again.
    pub const LATER: u32 = 11;
    /// STATUS: an ADD would not be served.
    pub const UNAVAILABLE: u32 = 50;
    /// STATUS: the same, and pods that run are affected too.
    pub const LIMITED: u32 = 51;
    /// Plugin and dataplane do not speak a common version.
    pub const SKEW: u32 = 100;
    /// CHECK: the pod is not as ADD left it.
    pub const DIFFERS: u32 = 101;
    /// The interface has no end on the node that Weir could watch.
    pub const NO_DEVICE: u32 = 102;
    /// An address belongs to the node, or to another pod that lives.
    pub const ADDRESS_TAKEN: u32 = 103;
    /// The dataplane refuses for another reason, or is none of ours.
    pub const REFUSED: u32 = 104;
}

/// Why a verb failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if .details.is_empty() { "" } else { "; " })]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// What is wrong, with the object's name.
    pub msg: String,
    /// What to do; may be empty.
    pub details: String,
}

#[derive(Serialize)]
struct ErrorResult<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Failure {
    /// Makes one without advice.
    pub fn new(code: u32, msg: impl Into<String>) -> Failure {
        Failure { code, msg: msg.into(), details: String::new() }
    }

    /// The same with advice.
    #[must_use]
    pub fn advise(self, details: impl Into<String>) -> Failure {
        Failure { details: details.into(), ..self }
    }

    /// The error result, in a version of CNI.
    pub fn to_json(&self, cni_version: &str) -> String {
        let result =
            ErrorResult { cni_version, code: self.code, msg: &self.msg, details: &self.details };
        serde_json::to_string(&result)
            .unwrap_or_else(|_| format!(r#"{{"code":{},"msg":"weir-cni failed"}}"#, self.code))
    }
}
