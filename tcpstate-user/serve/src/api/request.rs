//! A request, read: pure.

use tcpstate_common::State;
use tcpstate_core::{
    duration::nanoseconds,
    expression::{Expression, Lookup, Moment},
    filter::{PortSet, StateSet},
    quantity::parse_duration,
};

use super::{
    connections::{Cursor, Wanted},
    endpoints::Endpoint,
    history::{Past, Resolution},
    query::{BadRequest, Query, shown},
};

/// A request to the API.
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// `/api/v1/snapshot`.
    Snapshot,
    /// `/api/v1/connections`, with the connections that are wanted.
    Connections(Box<Wanted>),
    /// `/api/v1/findings`.
    Findings,
    /// `/api/v1/openapi.json`.
    OpenApi,
    /// `/api/v1/events`, with the filter.
    Events(Box<Expression>),
    /// `/api/v1/history`, with the part that is wanted.
    History(Past),
}

impl Request {
    /// Reads a path and a query. `names` finds the numbers of names in a filter.
    pub fn parse(path: &str, query: &str, names: &dyn Lookup) -> Result<Self, BadRequest> {
        let unknown = || BadRequest::new(format!("`{}` is no path of the API", shown(path)));
        let endpoint = Endpoint::at(path).ok_or_else(unknown)?;
        let query = Query::parse(endpoint, query)?;
        Ok(match endpoint.path {
            "/api/v1/snapshot" => Self::Snapshot,
            "/api/v1/connections" => Self::Connections(Box::new(connections(&query, names)?)),
            "/api/v1/findings" => Self::Findings,
            "/api/v1/events" => Self::Events(Box::new(query.filter(Moment::Change, names)?)),
            "/api/v1/openapi.json" => Self::OpenApi,
            "/api/v1/history" => Self::History(history(&query)?),
            _ => return Err(unknown()),
        })
    }
}

fn connections(query: &Query<'_>, names: &dyn Lookup) -> Result<Wanted, BadRequest> {
    let states = query.read("state", |text| {
        let states: StateSet = text.parse().map_err(|error| format!("{error}"))?;
        match NOT_LISTED.iter().find(|(state, _)| states.contains(*state)) {
            Some((state, why)) => Err(format!("sockets in {state} are not listed here: {why}")),
            None => Ok(states),
        }
    })?;
    Ok(Wanted {
        expression: query.filter(Moment::Present, names)?,
        states,
        ports: ports(query)?,
        newest_first: query.word("order")? == 1,
        limit: query.number("limit")?,
        cursor: query.read("cursor", |text| {
            let cursor = Cursor::parse(text);
            cursor.ok_or_else(|| format!("`{}` is not the `next` of an answer", shown(text)))
        })?,
    })
}

fn history(query: &Query<'_>) -> Result<Past, BadRequest> {
    Ok(Past {
        resolution: match query.word("resolution")? {
            0 => Resolution::Second,
            _ => Resolution::Minute,
        },
        last_ns: query.read("last", |text| {
            let last = parse_duration(text).map_err(|error| error.to_string())?;
            Ok(nanoseconds(last))
        })?,
        ports: ports(query)?,
    })
}

fn ports(query: &Query<'_>) -> Result<Option<PortSet>, BadRequest> {
    query.read("port", |text| {
        text.parse::<PortSet>().map_err(|error| error.to_string())
    })
}

/// The states whose sockets are no connections that are followed, with the reason.
const NOT_LISTED: [(State, &str); 3] = [
    (
        State::LISTEN,
        "listeners are no connections; `tcpstate ls` lists them",
    ),
    (
        State::TIME_WAIT,
        "they are counted (/api/v1/snapshot); `tcpstate ls` lists them",
    ),
    (State::CLOSE, "a closed socket is no connection any more"),
];
