//! The text of a scrape.

use std::fmt;

use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

use crate::metrics::Exposed;

/// The format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
}

impl Format {
    /// The better of the two for a client that accepts this (the header `Accept`). `OpenMetrics` only if the client names it.
    pub(crate) fn accepted(accept: &str) -> Self {
        let (mut open_metrics, mut prometheus) = (0.0, 0.0);
        for item in accept.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q="));
            let quality: f32 = quality.map_or(1.0, |text| text.parse().unwrap_or(0.0));
            let best = if media.eq_ignore_ascii_case("application/openmetrics-text") {
                &mut open_metrics
            } else if ["text/plain", "text/*", "*/*"]
                .iter()
                .any(|one| media.eq_ignore_ascii_case(one))
            {
                &mut prometheus
            } else {
                continue;
            };
            *best = quality.max(*best);
        }
        if open_metrics > 0.0 && open_metrics >= prometheus {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The header `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// Writes all metrics.
pub(crate) fn write(exposed: Exposed, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(exposed));
    let mut written = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut written, &registry),
        Format::Prometheus => prometheus_text::encode(&mut written, &registry),
    }?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        let prometheus_server = "application/openmetrics-text;version=1.0.0;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            (prometheus_server, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "Application/OpenMetrics-Text ; q=1 , */*",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.2,text/plain;q=0.3",
                Format::Prometheus,
            ),
            (
                "application/openmetrics-text;q=0,*/*;q=0",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=x", Format::Prometheus),
            (";;,,;q=,", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
