//! The paths.

use std::{fmt::Display, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::ACCEPT},
    response::Response,
    routing::get,
};

use crate::{
    answer::answer,
    api::{Api, ENDPOINTS},
    exposition::Format,
    present::{NoText, Present},
};

const TEXT: &str = "text/plain; charset=utf-8";

/// The paths, a line each.
fn index() -> String {
    let mut index = concat!(
        "tcpstate ",
        env!("CARGO_PKG_VERSION"),
        "\n\n/metrics\n/healthz\n/readyz\n"
    )
    .to_owned();
    for endpoint in ENDPOINTS {
        index.push_str(endpoint.path);
        index.push('\n');
    }
    index
}

/// A service that answers from what is present.
pub(crate) fn router(present: Arc<Present>, api: Arc<Api>) -> Router {
    Router::new()
        .route("/", get(async || answer(StatusCode::OK, TEXT, index())))
        .route("/metrics", get(metrics))
        .route(
            "/healthz",
            get(async |State(present): State<Arc<Present>>| verdict(present.is_well())),
        )
        .route(
            "/readyz",
            get(async |State(present): State<Arc<Present>>| verdict(present.is_ready())),
        )
        .with_state(present)
        .merge(api.router())
}

async fn metrics(State(present): State<Arc<Present>>, headers: HeaderMap) -> Response {
    // A client may give the header several times.
    let accept = headers.get_all(ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    match present.text(format) {
        Ok(text) => answer(StatusCode::OK, format.content_type(), text),
        Err(NoText::Unwell(why)) => unavailable(why),
        Err(why) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{why}\n")),
    }
}

fn verdict(verdict: Result<(), impl Display>) -> Response {
    match verdict {
        Ok(()) => answer(StatusCode::OK, TEXT, "ok\n"),
        Err(why) => unavailable(why),
    }
}

fn unavailable(why: impl Display) -> Response {
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
}
