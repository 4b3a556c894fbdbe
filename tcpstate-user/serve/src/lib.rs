//! The HTTP server of tcpstate: metrics for Prometheus, the health of a run, and an API.
//!
//! It is a consumer of the present ([`tcpstate_core::present`]): it shows the latest snapshot, in a thread of its own,
//! and asks nothing of the run. So neither a scrape nor a slow client holds up the reader of the events.
//!
//! ```text
//! Publisher ─> Subscriber ─> present ─┬─> health        is it attached, read, and complete?
//!                                     └─> exposition    the text of a scrape, made once a snapshot
//!                                             │
//!                             metrics: the table of all metrics
//!                                             │
//!                                           otlp        the same, pushed to a collector
//! Subscriber ─> api: snapshots, connections and findings as JSON
//! ```
//!
//! - [`metrics`]: each metric once: name, kind, unit, labels, meaning, and how to read it from a snapshot.
//! - [`Buckets`]: the bounds of histograms.
//! - [`api`]: what is known, as JSON, for programs.
//! - [`Workloads`]: counts by unit, container, pod and process, made by the run where somebody has chosen such labels.
//! - [`otlp`]: the same metrics, pushed over OTLP; `pushes`: the counts of pushes.
//! - `exposition`: the text of a snapshot, in either format; which of them a client asks for.
//! - `health`: what `/healthz` and `/readyz` say.
//! - `present`: the latest snapshot and when it came; `routes`: the paths; `answer`: the form of an answer; `files`: the files
//!   that are read; `server`: connections and their bounds; [`Listener`]: the socket.
//! - [`Web`]: TLS, passwords, and names by which the server may be reached.
//!
//! Every request gets a connection of its own, and each has a deadline: see [`Server`].

// Bad input is counted or reported; it never ends the process.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

mod answer;
pub mod api;
mod buckets;
mod exposition;
mod files;
mod health;
mod lease;
mod listener;
pub mod metrics;
pub mod otlp;
mod own;
mod present;
mod pushes;
mod routes;
mod server;
mod web;
mod workloads;

#[cfg(test)]
mod tests;

pub use self::{
    api::Feed,
    buckets::{Buckets, BucketsError},
    listener::Listener,
    server::{Options, ServeError, Server},
    web::{Web, WebError},
    workloads::{WorkloadCounts, Workloads},
};
