//! `docs/api.md`, made from the table of the API's paths.

use std::fmt::Write as _;

use tcpstate_serve::api::{ENDPOINTS, Endpoint, Form};

const HEAD: &str = "\
<!-- Made from tcpstate-user/serve/src/api/endpoints.rs: TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs -->

# The API of `tcpstate serve`

JSON over HTTP, for programs: the same objects, with the same [fields](fields.md), that the commands write with `--json`.

```console
$ curl -s 'http://127.0.0.1:9716/api/v1/connections?state=CLOSE_WAIT&limit=1' | jq '.connections[0].owner'
{
  \"pid\": 1017,
  \"comm\": \"java\",
  \"how\": \"exact\"
}
$ curl -sG http://127.0.0.1:9716/api/v1/connections --data-urlencode 'filter=dst 10.0.0.0/8 and dwell > 5m' | jq .matching
3
```

- Only GET is answered (and HEAD, as GET without the body); everything else is 405. There are no cookies and no CORS: \
a page of another origin cannot read an answer, nor can one whose name is made to lead here (DNS rebinding): on a loopback address only \
`localhost` and loopback addresses are answered, and other hosts get 421, unless there is TLS or a password.
- With `--web.config.file` a request may take a password (401 without it) or a certificate: see [deployment](deploy.md).
- An answer shows the last full second. A request for connections waits for the next one, a second at most: the list costs only \
while somebody asks for it. No request holds up the reading of events, and one that takes long delays no scrape.
- A request that is wrong is answered with 400 and `{\"type\":\"error\",\"message\":...}`, with the `parameter` that is wrong; of a \
filter, also the wrong part of it (`from`, `to`, in bytes) and the message as a terminal shows it, with carets below that part (`shown`). A path that does not exist \
is answered with 404, without a body.
- While there is no full second, or if none has come for 10 seconds, the answer is 503 with the reason in the same form.
- [openapi.json](../tcpstate-user/serve/openapi.json) describes all of it for programs, and is served too; a test checks answers against it.
- The bounds are those of [every request](../SECURITY.md), under *Listening sockets*.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for endpoint in ENDPOINTS {
        // Writing to a string does not fail.
        let _ = section(endpoint, &mut page);
    }
    page
}

fn section(endpoint: &Endpoint, page: &mut String) -> std::fmt::Result {
    writeln!(page, "\n## `{}`\n\n{}.", endpoint.path, endpoint.doc)?;
    if !endpoint.parameters.is_empty() {
        writeln!(page, "\n| parameter | value | meaning |\n|---|---|---|")?;
    }
    for parameter in endpoint.parameters {
        let value = match parameter.form {
            Form::Text => "text".to_owned(),
            Form::Word(words) => format!("`{}`; usually the first", words.join("` or `")),
            Form::Number { usual, most } => format!("1 to {most}, usually {usual}"),
        };
        writeln!(
            page,
            "| `{}` | {value} | {} |",
            parameter.name, parameter.doc
        )?;
    }
    writeln!(page, "\n| field | meaning |\n|---|---|")?;
    for (name, doc) in endpoint.fields {
        writeln!(page, "| `{name}` | {doc} |")?;
    }
    Ok(())
}
