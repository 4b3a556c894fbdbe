//! The API: what tcpstate knows, as JSON, for programs.
//!
//! Everything is read from published snapshots. A request that needs much work, such as a list of connections, is
//! answered in a thread of its own, one at a time, so that it does not delay a scrape either.
//!
//! [`ENDPOINTS`] has each path with its parameters. The requests are read by it, and `docs/api.md` is made from it.

mod connections;
mod endpoints;
mod events;
mod feed;
mod history;
mod openapi;
mod query;
mod request;
#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Extension, State},
    http::{StatusCode, Uri},
    response::Response,
    routing::get,
};
use http_body::Frame;
use serde_json::json;
use tcpstate_core::{
    expression::Lookup,
    model::{By, Connections},
    present::{RunSnapshot, Subscriber},
    view::End,
};
use tcpstate_text::{
    diagnose,
    format::json::{Lines, Summary},
    rates::Intervals,
};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

pub use self::{
    endpoints::{ENDPOINTS, Endpoint, Form, Parameter},
    feed::{Feed, MOST_STREAMS},
    history::{History, Past, Resolution},
    query::BadRequest,
    request::Request,
};
use self::{events::Events, history::Written};
use crate::{answer::answer, lease::Lease, present::Present};

/// The meaning of names in a filter.
pub type Names = Arc<dyn Lookup + Send + Sync>;

/// The connections of each state that are listed, those that have been in it longest: a snapshot of them takes some
/// 50 MiB at most, while a request is answered; there is one at a time.
pub const MOST_CONNECTIONS: usize = 10_000;

/// The time for a snapshot with connections: snapshots come once a second.
const PATIENCE: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";

const EVENTS: &str = "text/event-stream";

const TOO_BUSY: &str = "too busy: ask again";

/// The state of the API.
pub(crate) struct Api {
    present: Arc<Present>,
    /// Has seen nothing: a clone gets the latest snapshot, and then each that follows.
    subscriber: Subscriber,
    names: Names,
    /// The texts of the latest snapshot that were asked for: any number of requests cost what one costs.
    texts: Mutex<Texts>,
    history: Mutex<History>,
    feed: Feed,
    /// Lists of connections are made one after the other: each holds a snapshot.
    turn: Arc<Semaphore>,
}

#[derive(Default)]
struct Texts {
    /// The number of the snapshot.
    of: u64,
    snapshot: Option<Bytes>,
    findings: Option<Bytes>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// With the reason.
    #[error("{0}")]
    Unavailable(String),
    #[error("cannot write the answer")]
    Unwritten(#[from] io::Error),
}

impl Refusal {
    fn response(&self) -> Response {
        let (status, body) = match self {
            Self::BadRequest(error) => (StatusCode::BAD_REQUEST, error.json()),
            Self::Unavailable(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                json!({"type": "error", "message": why}),
            ),
            Self::Unwritten(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                json!({"type": "error", "message": format!("cannot write the answer: {error}")}),
            ),
        };
        answer(status, JSON, format!("{body}\n"))
    }
}

impl Api {
    pub(crate) fn new(
        present: Arc<Present>,
        subscriber: Subscriber,
        names: Names,
        feed: Feed,
    ) -> Self {
        Self {
            feed,
            turn: Arc::new(Semaphore::new(1)),
            present,
            subscriber,
            names,
            texts: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// The paths of the API.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let mut router = Router::new();
        for endpoint in ENDPOINTS {
            let asked = async |State(api): State<Arc<Self>>, lease: Extension<Lease>, uri: Uri| {
                api.respond(&uri, &lease).await
            };
            router = router.route(endpoint.path, get(asked));
        }
        router.with_state(self)
    }

    /// Keeps the intervals of all snapshots that come, until none follows.
    pub(crate) async fn follow(&self, mut subscriber: Subscriber) {
        while let Some(snapshot) = subscriber.next().await {
            self.history().keep(&snapshot.interval);
        }
    }

    /// Waits until those that follow the events have got the last ones, at most so long.
    pub(crate) async fn end(&self, most: Duration) {
        let is_over = async {
            while self.feed.is_wanted() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever has not read them by then misses them.
        let _ = timeout(most, is_over).await;
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // All that was kept before is whole.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(&self, uri: &Uri, lease: &Lease) -> Response {
        match self.body(uri, lease).await {
            Ok((kind, body)) => answer(StatusCode::OK, kind, body),
            Err(refusal) => refusal.response(),
        }
    }

    /// The kind of the answer, and the answer.
    async fn body(&self, uri: &Uri, lease: &Lease) -> Result<(&'static str, Body), Refusal> {
        let query = uri.query().unwrap_or_default();
        let request = Request::parse(uri.path(), query, self.names.as_ref())?;
        let unavailable = |why: &dyn std::fmt::Display| Refusal::Unavailable(why.to_string());
        if !matches!(request, Request::OpenApi) {
            self.present.is_ready().map_err(|why| unavailable(&why))?;
        }
        let json = match request {
            Request::OpenApi => openapi::DOCUMENT.into(),
            Request::Snapshot => {
                let snapshot = self.latest()?;
                let mut texts = self.texts_of(&snapshot);
                let text = kept(&mut texts.snapshot, || write_snapshot(&snapshot))?;
                text.into()
            }
            Request::Findings => {
                let snapshot = self.latest()?;
                let mut texts = self.texts_of(&snapshot);
                let text = kept(&mut texts.findings, || write_findings(&snapshot))?;
                text.into()
            }
            Request::Connections(wanted) => {
                let turn = timeout(PATIENCE, Arc::clone(&self.turn).acquire_owned()).await;
                let turn = turn.map_err(|_| unavailable(&TOO_BUSY))?;
                let snapshot = self.with_connections().await?;
                let work = move || {
                    let text = connections::write(&snapshot, &wanted);
                    // Whoever asked may have gone: then nobody else knows that it is over.
                    drop((snapshot, turn));
                    text
                };
                let written = spawn_blocking(work).await;
                let text = written.map_err(|_| unavailable(&TOO_BUSY))??;
                text.into()
            }
            Request::History(wanted) => {
                let past = self.history().past(wanted, &*self.latest()?);
                Body::new(Parts(past))
            }
            Request::Events(filter) => {
                let follower = self.feed.follow().ok_or_else(|| {
                    Refusal::Unavailable(format!(
                        "{MOST_STREAMS} clients follow the events already, and there is room for no more"
                    ))
                })?;
                let events = Events::new(follower, lease.clone(), *filter);
                return Ok((EVENTS, Body::new(events)));
            }
        };
        Ok((JSON, json))
    }

    fn latest(&self) -> Result<Arc<RunSnapshot>, Refusal> {
        let latest = self.subscriber.latest();
        latest.ok_or_else(|| Refusal::Unavailable("there is no snapshot yet".to_owned()))
    }

    /// The texts of this snapshot, those that are known.
    fn texts_of(&self, snapshot: &RunSnapshot) -> MutexGuard<'_, Texts> {
        // A text is put there whole.
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.of != snapshot.number {
            *texts = Texts {
                of: snapshot.number,
                ..Texts::default()
            };
        }
        texts
    }

    /// A snapshot with the open connections, as soon as there is one: the next, unless somebody else has just asked.
    async fn with_connections(&self) -> Result<Arc<RunSnapshot>, Refusal> {
        let mut subscriber = self.subscriber.clone();
        let find = async {
            // The first is the latest one.
            while let Some(snapshot) = subscriber.next().await {
                if snapshot.connections != Connections::None {
                    return Ok(snapshot);
                }
                subscriber.want_connections();
            }
            Err(Refusal::Unavailable("the run has ended".to_owned()))
        };
        let late = || Refusal::Unavailable(TOO_BUSY.to_owned());
        timeout(PATIENCE, find)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

/// An answer that is written bit by bit, as the client reads it.
struct Parts(Written);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let part = self.0.part().transpose();
        Poll::Ready(part.map(|part| part.map(|text| Frame::data(text.into()))))
    }
}

/// The text, made if it is not known.
fn kept(
    text: &mut Option<Bytes>,
    write: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Result<Bytes, Refusal> {
    if let Some(text) = text {
        return Ok(text.clone());
    }
    Ok(text.insert(write()?.into()).clone())
}

/// The latest interval as a line of `rates`, and the books so far as the last line of a run.
fn write_snapshot(snapshot: &RunSnapshot) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let &RunSnapshot {
        number, is_final, ..
    } = snapshot;
    push(
        &mut text,
        &format!("{{\"type\":\"snapshot\",\"number\":{number},\"is_final\":{is_final},\"rates\":"),
    );
    Intervals::new(By::Port).write(
        &snapshot.interval,
        snapshot.handshakes.clone(),
        &snapshot.origin,
        &snapshot.names,
        &mut text,
    )?;
    text.pop();
    push(&mut text, ",\"summary\":");
    let end = End {
        now_ns: snapshot.tracker.now_ns,
        accounting: snapshot.books.accounting,
        selection: snapshot.books.selection,
        cost: snapshot.books.cost,
        damaged: false,
        verbose: false,
        part: None,
        evidence: snapshot.origin.evidence(),
        packets: None,
    };
    let books = &snapshot.tracker.books;
    let summary = Summary::new(&end, Some(books), json!({"connections": books}));
    Lines::default().write(&summary, &mut text)?;
    text.pop();
    push(&mut text, "}\n");
    Ok(text)
}

/// The findings, each as `diagnose` writes it.
fn write_findings(snapshot: &RunSnapshot) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut lines = Lines::default();
    let now_ns = snapshot.tracker.now_ns;
    begin_list(&mut text, "findings", snapshot);
    push(&mut text, ",\"findings\":[");
    for (at, finding) in snapshot.findings.iter().flatten().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        diagnose::write_json(finding, now_ns, &snapshot.facts, &mut lines, &mut text)?;
        text.pop();
    }
    push(&mut text, "]}\n");
    Ok(text)
}

/// Begins an answer, with the time of the snapshot.
fn begin_list(text: &mut Vec<u8>, kind: &str, snapshot: &RunSnapshot) {
    let now_ns = snapshot.tracker.now_ns;
    push(text, &format!("{{\"type\":\"{kind}\",\"ts\":\""));
    tcpstate_text::format::time::Utc::default().push(snapshot.origin.wall_ns(now_ns), text);
    push(text, &format!("\",\"ts_ns\":{now_ns}"));
}

fn push(text: &mut Vec<u8>, more: &str) {
    text.extend_from_slice(more.as_bytes());
}
