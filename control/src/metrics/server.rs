//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::ledger::Ledger;

/// What the text encoder writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Takes the address, `127.0.0.1:9101` or `[::]:9101`; port 0 lets the kernel choose.
///
/// # Errors
/// It is no address, not of this host, or in use.
pub fn bind(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("--metrics {address} (as in 127.0.0.1:9101) cannot be served"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers until the runtime ends.
///
/// # Errors
/// The listener cannot be used any more.
pub async fn serve(listener: TcpListener, ledger: Arc<Ledger>) -> Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(ledger);
    axum::serve(tokio::net::TcpListener::from_std(listener)?, routes).await?;
    Ok(())
}

async fn metrics(State(ledger): State<Arc<Ledger>>) -> Response {
    match ledger.metrics().text() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(ledger): State<Arc<Ledger>>) -> Response {
    match ledger.metrics().unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}
