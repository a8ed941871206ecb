//! Requests and the bodies of their answers, with an end to every wait.

use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use ::http::request::Builder;
use http_body_util::BodyExt;
use kube::client::Body;

use super::lines::TooLong;
use super::reflect::End;
use super::refusal::Status;
use super::wire::MAX_PAGE;

/// For the head of an answer, and between two pieces of a page.
const HEAD: Duration = Duration::from_secs(30);
/// Of the body of a refusal so much is read, in bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// Why a request did not bring what it should.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) end: End,
    pub(super) words: String,
    /// New credentials, or another address, may help.
    pub(super) doubt: bool,
    /// The status of the answer, if it was the answer's.
    pub(super) code: Option<u16>,
}

impl From<TooLong> for Fault {
    fn from(error: TooLong) -> Self {
        Self::with(End::Unreadable, error.to_string())
    }
}

impl Fault {
    /// The server is there and well, as far as it is asked anything else.
    pub(super) fn with(end: End, words: impl Into<String>) -> Self {
        Self { end, words: words.into(), doubt: false, code: None }
    }

    /// No answer, or not to the end.
    pub(super) fn unreachable(words: impl Into<String>) -> Self {
        Self { doubt: true, ..Self::with(End::Failed(None), words) }
    }

    /// The server refuses a request; it may ask to wait.
    pub(super) fn refused(code: u16, status: &Status, wait: Option<Duration>) -> Self {
        let end = gone(status).unwrap_or(End::Failed(wait));
        Self { doubt: code == 401, code: Some(code), ..Self::with(end, status.to_string()) }
    }

    /// The server ends a watch with an error. What it is about is not to be had by asking for the
    /// same again and again, so it counts as an event that cannot be read.
    pub(super) fn in_stream(status: &Status) -> Self {
        Self::with(gone(status).unwrap_or(End::Unreadable), status.to_string())
    }
}

fn gone(status: &Status) -> Option<End> {
    if status.is_too_large_version {
        Some(End::FromTheFuture)
    } else {
        status.is_gone().then_some(End::Gone)
    }
}

/// Asks for something; the body of the answer if the server is willing.
pub(super) async fn get(client: &kube::Client, path: &str) -> Result<Body, Fault> {
    send(client, ::http::Request::get(path), Body::empty()).await
}

/// Makes an object.
pub(super) async fn post(client: &kube::Client, path: &str, object: String) -> Result<(), Fault> {
    let request = ::http::Request::post(path).header(CONTENT_TYPE, "application/json");
    // To its end, or the connection cannot be used again.
    collect(send(client, request, Body::from(object.into_bytes())).await?).await.map(drop)
}

async fn send(client: &kube::Client, request: Builder, body: Body) -> Result<Body, Fault> {
    let request = request.header(ACCEPT, "application/json").body(body);
    let request = request.map_err(|error| Fault::with(End::Failed(None), error.to_string()))?;
    let answer = match tokio::time::timeout(HEAD, client.send(request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Fault::unreachable(in_words(&error))),
        Err(_) => return Err(Fault::unreachable("no answer within 30 s")),
    };
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.into_body());
    }
    let wait = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = wait.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let mut body = Vec::new();
    let mut rest = answer.into_body();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(HEAD, rest.frame()).await
        && body.len() < MAX_REFUSAL
    {
        body.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let code = status.as_u16();
    Err(Fault::refused(code, &Status::of_response(code, &body), wait))
}

/// The whole body, up to [`MAX_PAGE`].
pub(super) async fn collect(mut body: Body) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    loop {
        let frame = match tokio::time::timeout(HEAD, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(text),
            Ok(Some(Err(error))) => return Err(Fault::unreachable(in_words(&error))),
            Err(_) => return Err(Fault::unreachable("a page stopped half-way for 30 s")),
        };
        let bytes = frame.into_data().unwrap_or_default();
        if text.len() + bytes.len() > MAX_PAGE {
            let words = format!("a page is larger than {} MiB", MAX_PAGE >> 20);
            return Err(Fault::with(End::TooLarge, words));
        }
        text.extend_from_slice(&bytes);
    }
}

/// An error with its causes, each once.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.iter().any(|known| known.contains(&text)) {
            words.push(text);
        }
        cause = error.source();
    }
    // The outermost one is the name of a layer of the client.
    let first = words[0].trim_start_matches("ServiceError: ").trim_start_matches("HyperError: ");
    words[0] = first.to_owned();
    words.join(": ")
}

/// A value of a query.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode = |byte: u8| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_encoded() {
        assert_eq!(encoded("eyJ2IjoibWV0YS5rOHMuaW8vdjEi_-"), "eyJ2IjoibWV0YS5rOHMuaW8vdjEi_-");
        assert_eq!(encoded("a+b/c=&ä"), "a%2Bb%2Fc%3D%26%C3%A4");
    }
}
