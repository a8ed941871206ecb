//! A plain HTTP/1.1 client over a socket, which sees what a client library hides: chunks, lines
//! that are cut, connections that close.

#![allow(dead_code)] // what measures sizes uses a part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use weir_apiserver::{ApiServer, Manners, Settings};

/// For whatever has to come; a machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server without objects whose namespaces need not be there.
pub fn server() -> ApiServer {
    let manners = Manners { needs_namespaces: false, ..Manners::default() };
    ApiServer::start(Settings { manners, ..Settings::default() }).unwrap()
}

/// A Pod of a node.
pub fn pod(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"nodeName": "a", "containers": [{"name": "main", "image": "x"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    })
}

/// An answer's head, and what reads its body.
pub struct Answer {
    pub code: u16,
    pub headers: Vec<(String, String)>,
    stream: BufReader<TcpStream>,
}

/// Sends a request on a connection of its own; `None`: closed without an answer.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nUser-Agent: plain\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(text.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let code = line.split(' ').nth(1)?.parse().ok()?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    Some(Answer { code, headers, stream })
}

pub fn get(server: &ApiServer, path: &str) -> Answer {
    send(server.address(), "GET", path, &[], "").unwrap()
}

/// The code and the object of an answer to a write.
pub fn write(
    server: &ApiServer,
    method: &str,
    path: &str,
    content_type: &str,
    body: &Value,
) -> (u16, Value) {
    let headers = [("Content-Type", content_type)];
    let answer = send(server.address(), method, path, &headers, &body.to_string()).unwrap();
    (answer.code, answer.json())
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The next chunk; `Ok(None)` at the proper end, `Err` where the connection broke.
    pub fn chunk(&mut self) -> Result<Option<String>, String> {
        assert_eq!(self.header("transfer-encoding"), Some("chunked"));
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("closed".to_owned());
        }
        let size = usize::from_str_radix(line.trim(), 16).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; size + 2];
        self.stream.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        bytes.truncate(size);
        let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
        Ok((size > 0).then_some(text))
    }

    /// The body's bytes, and how many chunks there were.
    pub fn body(mut self) -> (Result<String, String>, usize) {
        if let Some(length) = self.header("content-length") {
            let mut bytes = vec![0; length.parse().unwrap()];
            let result = self.stream.read_exact(&mut bytes).map_err(|error| error.to_string());
            return (result.map(|()| String::from_utf8(bytes).unwrap()), 1);
        }
        let (mut text, mut chunks) = (String::new(), 0);
        loop {
            match self.chunk() {
                Ok(Some(chunk)) => text.push_str(&chunk),
                Ok(None) => return (Ok(text), chunks),
                Err(error) => return (Err(error), chunks),
            }
            chunks += 1;
        }
    }

    pub fn json(self) -> Value {
        serde_json::from_str(&self.body().0.unwrap()).unwrap()
    }

    /// The next event of a watch whose events are a chunk each.
    pub fn event(&mut self) -> Value {
        let line = self.chunk().unwrap().expect("an event, not the end");
        assert!(line.ends_with('\n'), "{line:?}");
        serde_json::from_str(&line).unwrap()
    }

    /// `ADDED web 3`
    pub fn short(&mut self) -> String {
        let event = self.event();
        let metadata = &event["object"]["metadata"];
        let name = metadata["name"].as_str().unwrap_or("-");
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        format!("{} {name} {}", text(&event["type"]), text(&metadata["resourceVersion"]))
    }
}

/// The names of a list's items.
pub fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}
