//! Any path and query are a request to the API, or an error with words that a terminal shows as they are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_core::expression::NoNames;
use tcpstate_serve::api::{ENDPOINTS, Request};

fuzz_target!(|text: &str| {
    // A line for the path, or the number of one, and one for the query.
    let (path, query) = text.split_once('\n').unwrap_or((text, ""));
    let known = path.parse::<usize>().ok().and_then(|at| ENDPOINTS.get(at));
    let path = known.map_or(path, |endpoint| endpoint.path);
    match Request::parse(path, query, &NoNames) {
        Ok(_) => assert!(ENDPOINTS.iter().any(|endpoint| endpoint.path == path)),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty());
        }
    }
});
