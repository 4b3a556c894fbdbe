//! The server: a thread with a runtime of its own, and the bounds of connections.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::{TowerToHyperService, TowerToHyperServiceFuture},
};
use tcpstate_core::present::Subscriber;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    task::{AbortHandle, yield_now},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Buckets, Listener, Web, WorkloadCounts,
    api::{Api, Feed, Names},
    lease::Lease,
    otlp::Pusher,
    present::Present,
    routes,
};

/// The most connections at a time. One more, and the oldest that has not asked is closed, or else the oldest: it has had
/// its time, and whoever comes new gets an answer, however many connect and ask nothing.
const MAX_CONNECTIONS: usize = 64;

/// The time for the head of a request, and before it for a handshake of TLS.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// The time in which clients that follow the events get the last ones.
const LAST_TIME: Duration = Duration::from_millis(500);

/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// The pause after a connection that could not be taken: usually there are too many open files, and no event says when
/// there is room again.
const RETRY: Duration = Duration::from_millis(100);

/// The choices of a server.
#[derive(Clone)]
pub struct Options {
    /// The buckets of histograms.
    pub buckets: Buckets,
    /// The size of the ring buffer.
    pub ring_bytes: u32,
    /// The meaning of names in the filters of requests.
    pub names: Names,
    /// The changes of the run.
    pub feed: Feed,
    /// Counts by chosen labels; the default has none.
    pub workloads: WorkloadCounts,
    /// TLS, passwords and the rest of what protects it.
    pub web: Web,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The answer of the kernel.
        #[source]
        source: io::Error,
    },
    /// There is no thread or no runtime for it.
    #[error("cannot start the HTTP server")]
    Start(#[source] io::Error),
}

/// A server that answers until it is dropped.
///
/// A connection is for one request, and ends after 10 seconds, whatever the client does or does not do. There are at most
/// 64 at a time; a further one takes the place of the oldest that has not asked yet, or else of the oldest. Beside them at most 8 clients follow the events, each for as
/// long as it reads.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    present: Arc<Present>,
    web: watch::Sender<Web>,
    /// `None` once it is told to stop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// `None`: nothing is pushed.
    pusher: Option<Pusher>,
}

impl Server {
    /// Listens, and answers from the snapshots of this subscriber.
    ///
    /// The thread that serves calls `enter` first, which may give up privileges; if it fails, nothing is served.
    pub fn start(
        options: &Options,
        listener: Listener,
        subscriber: Subscriber,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Self, ServeError> {
        let address = listener.address();
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Lists of connections take turns, and so do passwords. The threads start in the one that serves, so they have no more
            // privileges.
            .max_blocking_threads(2)
            .thread_name("api")
            .build()
            .map_err(ServeError::Start)?;
        let present = Arc::new(Present::new(options.buckets.clone(), options.ring_bytes));
        present.set_workloads(options.workloads.clone());
        let api = Api::new(
            Arc::clone(&present),
            subscriber.clone(),
            Arc::clone(&options.names),
            options.feed.clone(),
        );
        let api = Arc::new(api);
        let (web, seen_web) = watch::channel(options.web.clone());
        let protection = Protection {
            address,
            web: seen_web,
        };
        let router = routes::router(Arc::clone(&present), Arc::clone(&api))
            .layer(from_fn_with_state(protection.clone(), guard));
        let protected = protection.clone();
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&present);
        let (started, is_started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                let listen = || {
                    enter().map_err(ServeError::Start)?;
                    let _inside = runtime.enter();
                    listener.listen()
                };
                match listen() {
                    Ok(listener) => {
                        // Whoever started it waits for this.
                        let _ = started.send(Ok(()));
                        run(
                            &runtime,
                            &listener,
                            (&router, &protected),
                            (&seen, &api),
                            subscriber,
                            stopped,
                        );
                        // Work for a client that is gone is not waited for: the run ends.
                        runtime.shutdown_background();
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })
            .map_err(ServeError::Start)?;
        is_started
            .recv()
            .unwrap_or_else(|error| Err(ServeError::Start(io::Error::other(error))))?;
        Ok(Self {
            address,
            present,
            web,
            stop: Some(stop),
            thread: Some(thread),
            pusher: None,
        })
    }

    /// The address that it listens on: with the port that the kernel chose, if 0 was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the buckets of histograms, from the next scrape on.
    ///
    /// Nothing is counted anew: all buckets are made from the same finer ones.
    pub fn set_buckets(&self, buckets: Buckets) {
        self.present.set_buckets(buckets);
    }

    /// Changes its protection, from the next connection on. Clients that follow the events have to connect again.
    pub fn set_web(&self, web: Web) {
        self.web.send_replace(web);
    }

    /// Has the same metrics pushed, until the server is dropped. The subscriber is one of the same publisher.
    pub fn push(&mut self, pusher: Pusher, subscriber: Subscriber) {
        self.present.set_pushes(pusher.counts());
        pusher.begin(Arc::clone(&self.present), subscriber);
        self.pusher = Some(pusher);
    }
}

/// The protection of the server at this time.
#[derive(Clone, Debug)]
struct Protection {
    address: SocketAddr,
    web: watch::Receiver<Web>,
}

impl Protection {
    fn web(&self) -> Web {
        self.web.borrow().clone()
    }

    /// The protection of a new connection, and the news of later ones.
    fn of_connection(&self) -> (Web, watch::Receiver<Web>) {
        let mut changes = self.web.clone();
        let web = changes.borrow_and_update().clone();
        (web, changes)
    }
}

async fn guard(
    State(protection): State<Protection>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let web = protection.web();
    web.guard(protection.address, request, next).await
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both end at the same time.
        if let Some(pusher) = &mut self.pusher {
            pusher.stop();
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has ended either way.
            let _ = thread.join();
        }
    }
}

fn run(
    runtime: &Runtime,
    listener: &TcpListener,
    (router, protection): (&Router, &Protection),
    (present, api): (&Present, &Api),
    subscriber: Subscriber,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async move {
        tokio::select! {
            // The other end is dropped, and nothing is sent.
            () = async {
                let _ = stopped.await;
                api.end(LAST_TIME).await;
            } => {}
            () = accept(listener, router, protection) => {}
            () = async {
                tokio::join!(present.follow(subscriber.clone()), api.follow(subscriber));
                // Until it is told to stop, it says that the run has ended.
                std::future::pending::<()>().await;
            } => {}
        }
    });
}

/// Takes connections.
async fn accept(listener: &TcpListener, router: &Router, protection: &Protection) {
    let mut open: VecDeque<(AbortHandle, Lease)> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        // Streams have a bound of their own.
        open.retain(|(connection, lease)| !connection.is_finished() && !lease.is_stream());
        if open.len() >= MAX_CONNECTIONS {
            // Whoever has asked may be waiting for us.
            let idle = open.iter().position(|(_, lease)| !lease.has_asked());
            if let Some((oldest, _)) = open.remove(idle.unwrap_or(0)) {
                oldest.abort();
            }
        }
        let lease = Lease::new();
        let (web, changes) = protection.of_connection();
        let tls = web.tls().map(TlsAcceptor::from);
        let answered = answer(stream, (tls, changes), router.clone(), lease.clone());
        open.push_back((tokio::spawn(answered).abort_handle(), lease));
        // What has come with it is read before another one may take its place, however many wait.
        yield_now().await;
    }
}

/// Answers one request, for as long as its time lasts; a stream, as long as the protection stays as it is.
async fn answer(
    stream: TcpStream,
    (tls, changes): (Option<TlsAcceptor>, watch::Receiver<Web>),
    router: Router,
    lease: Lease,
) {
    let answered = async {
        let Some(tls) = tls else {
            return speak(stream, router, &lease).await;
        };
        if let Ok(Ok(stream)) = timeout(HEAD_TIME, tls.accept(stream)).await {
            speak(stream, router, &lease).await;
        }
    };
    tokio::select! {
        () = answered => {}
        () = lease.end() => {}
        () = revoked(changes, &lease) => {}
    }
}

/// Waits until a stream may have lost its right: a password or a certificate may be no longer good.
async fn revoked(mut changes: watch::Receiver<Web>, lease: &Lease) {
    while changes.changed().await.is_ok() {
        if lease.end_renewals() {
            return;
        }
    }
    // The server ends, and with it the connection.
    std::future::pending::<()>().await;
}

/// Speaks HTTP until a request is answered.
async fn speak<S>(stream: S, router: Router, lease: &Lease)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(stream),
            Leased {
                service: TowerToHyperService::new(router),
                lease: lease.clone(),
            },
        );
    // A client that asks wrongly or goes away is its own affair.
    let _ = connection.await;
}

/// The paths, for a connection with this time: a stream renews it.
struct Leased {
    service: TowerToHyperService<Router>,
    lease: Lease,
}

impl Service<Request<Incoming>> for Leased {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = TowerToHyperServiceFuture<Router, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.lease.ask();
        request.extensions_mut().insert(self.lease.clone());
        self.service.call(request)
    }
}
