//! A push: one request over a connection of its own, and the answer.

use std::{io, io::Write as _, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{
        HeaderMap, Request, StatusCode,
        header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT},
    },
};
use flate2::{Compression, write::GzEncoder};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};

use super::{collector::Collector, endpoint::Endpoint, schedule::Last};
use crate::pushes::Verdict;

/// The time for a push, from the lookup of the address to the end of the answer. The SDKs of OpenTelemetry wait as long.
pub(super) const TIME: Duration = Duration::from_secs(10);

/// The time for a connection to one address: one that drops SYNs, as IPv6 without a way often does, leaves some for the next.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// The most bytes of an answer that are read, of its head and of its body each.
const MAX_BYTES: usize = 64 << 10;

/// The most characters of a text of the collector that are shown.
const MAX_CHARACTERS: usize = 300;

/// Values that a collector refused of a push whose rest it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Their number.
    pub points: u64,
    /// The reason, in the words of the collector.
    pub reason: String,
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its address was not found, or it does not take the connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Its certificate is of nobody who is trusted, or what came is no TLS.
    #[error("cannot agree on TLS")]
    Tls(#[source] io::Error),
    /// The time is over.
    #[error("no answer within {} s", TIME.as_secs())]
    Time,
    /// The connection ended, or what came is not HTTP.
    #[error("no answer")]
    Broken(#[source] hyper::Error),
    /// Its answer is no success.
    #[error("it answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The time for which it asked to wait.
        retry_after: Option<Duration>,
    },
    /// The message could not be made.
    #[error("cannot write the metrics")]
    Unwritten,
}

impl Failure {
    /// Its name in the metric of pushes.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Connect(_) | Self::Tls(_) | Self::Unwritten => Verdict::Unavailable,
            Self::Status { status, .. } if is_for_later(*status) => Verdict::Unavailable,
            Self::Status { .. } => Verdict::Refused,
            Self::Time | Self::Broken(_) => Verdict::Unanswered,
        }
    }

    /// Its part in the time of the next push.
    pub(super) fn last(&self) -> Last {
        match self {
            Self::Status {
                status,
                retry_after,
            } if is_for_later(*status) => Last::Failed(*retry_after),
            Self::Status { .. } | Self::Unwritten => Last::Answered,
            Self::Connect(_) | Self::Tls(_) | Self::Time | Self::Broken(_) => Last::Failed(None),
        }
    }
}

/// Whether a later push may be answered otherwise.
///
/// *Source:* the specification of OTLP, "Retryable Response Codes".
fn is_for_later(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The body of a request.
pub(super) fn body(message: &ExportMetricsServiceRequest) -> io::Result<Bytes> {
    // Attributes repeat, so that the least effort makes it a twentieth.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&message.encode_to_vec())?;
    Ok(packed.finish()?.into())
}

/// Sends it, once. `Some`: a part of it was refused.
pub(super) async fn post(collector: &Collector, body: Bytes) -> Result<Option<Refused>, Failure> {
    timeout(TIME, exchange(collector, body))
        .await
        .unwrap_or(Err(Failure::Time))
}

async fn exchange(collector: &Collector, body: Bytes) -> Result<Option<Refused>, Failure> {
    let endpoint = collector.endpoint();
    // A push is seldom, and with a connection of its own it is never sent on one that has ended.
    let stream = connect(endpoint).await.map_err(Failure::Connect)?;
    let Some((tls, server)) = collector.tls() else {
        return speak(stream, endpoint, body).await;
    };
    let stream = tls.connect(server, stream).await.map_err(Failure::Tls)?;
    speak(stream, endpoint, body).await
}

/// A connection to the first of its addresses that takes one.
async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::other("its name has no address");
    for address in lookup_host((endpoint.host(), endpoint.port())).await? {
        match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {
                let why = format!("no connection within {} s", CONNECT_TIME.as_secs());
                last = io::Error::new(io::ErrorKind::TimedOut, why);
            }
        }
    }
    Err(last)
}

/// One request over a connection, and the answer.
async fn speak<S>(stream: S, endpoint: &Endpoint, body: Bytes) -> Result<Option<Refused>, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::Broken)?;
    // It ends with this call, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::post(endpoint.path())
        .header(HOST, endpoint.authority())
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(CONTENT_ENCODING, "gzip")
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("tcpstate/", env!("CARGO_PKG_VERSION")))
        .body(Body::from(body))
        .map_err(|_| Failure::Unwritten)?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(Failure::Broken)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(Failure::Status {
            status,
            retry_after: retry_after(answer.headers()),
        });
    }
    // It has been accepted, whatever else is in the answer.
    let body = to_bytes(Body::new(answer.into_body()), MAX_BYTES).await;
    Ok(body.ok().and_then(|body| refused(&body)))
}

/// The header `Retry-After`, if it is a number of seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse();
    Some(Duration::from_secs(seconds.ok()?))
}

/// What was refused, by the body of an answer.
fn refused(body: &[u8]) -> Option<Refused> {
    let answer = ExportMetricsServiceResponse::decode(body).ok()?;
    let partial = answer.partial_success?;
    let points = u64::try_from(partial.rejected_data_points).ok()?;
    (points > 0).then(|| Refused {
        points,
        reason: partial.error_message.chars().take(MAX_CHARACTERS).collect(),
    })
}
