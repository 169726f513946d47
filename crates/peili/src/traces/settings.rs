//! The destination of traces: the option and the environment that OpenTelemetry defines
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};
use url::Url;

use super::sampler::Sampler;
use crate::fault::Faults;

const FLAG: &str = "--otlp-endpoint";
/// The default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The destination and the form of traces.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The URL of requests.
    pub endpoint: Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub timeout: Duration,
    pub sampler: Sampler,
    pub service: String,
    /// Further attributes of the resource.
    pub attributes: Vec<(String, String)>,
}

/// Reads the settings. `None`: traces are off, or at fault. `variable` reads the environment.
pub fn read(
    endpoint: &str,
    variable: impl Fn(&str) -> Option<String>,
    faults: &mut Faults,
) -> Option<TraceSettings> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let own = |name: &str| {
        let of_traces = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
        of_traces.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let endpoint = match variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        Some(whole) => whole,
        None if endpoint.is_empty() => return None,
        None => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
    };
    let endpoint = faults.take(FLAG, parse_endpoint(&endpoint));
    if let Some(protocol) = own("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
        let what = format!(
            "{protocol:?} is not supported; write http/protobuf, and name the collector's port for it, 4318 by default"
        );
        faults.add("OTEL_EXPORTER_OTLP_PROTOCOL", what);
    }
    let headers = own("HEADERS").unwrap_or_default();
    let headers = faults.take("OTEL_EXPORTER_OTLP_HEADERS", parse_headers(&headers));
    let timeout = match own("TIMEOUT") {
        None => Some(TIMEOUT),
        Some(text) => faults.take("OTEL_EXPORTER_OTLP_TIMEOUT", parse_timeout(&text)),
    };
    let argument = variable("OTEL_TRACES_SAMPLER_ARG");
    let sampler = match variable("OTEL_TRACES_SAMPLER") {
        None => Some(Sampler::default()),
        Some(name) => faults.take(
            "OTEL_TRACES_SAMPLER",
            Sampler::parse(&name, argument.as_deref()),
        ),
    };
    let mut attributes = pairs(&variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
    let named = attributes
        .iter()
        .position(|(name, _)| name == "service.name");
    let named = named.map(|index| attributes.swap_remove(index).1);
    let service = variable("OTEL_SERVICE_NAME").or(named);
    Some(TraceSettings {
        endpoint: endpoint?,
        headers: headers?,
        timeout: timeout?,
        sampler: sampler?,
        service: service.unwrap_or_else(|| "peili".to_owned()),
        attributes,
    })
}

fn parse_endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
    // The text may contain a password.
    url.ok_or_else(|| {
        "is not http://host:port or https://host:port; credentials go into OTEL_EXPORTER_OTLP_HEADERS".to_owned()
    })
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let millis = text
        .parse()
        .ok()
        .filter(|millis| (1..=600_000).contains(millis));
    let millis =
        millis.ok_or_else(|| format!("{text:?} is not a number of milliseconds from 1 to 600000"));
    millis.map(Duration::from_millis)
}

/// Parses `name=value` pairs, separated by commas and percent-encoded (W3C Baggage).
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        percent_decode_str(text.trim())
            .decode_utf8_lossy()
            .into_owned()
    };
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), decoded(value)))
        .collect()
}

fn parse_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let headers = pairs(text).into_iter().map(|(name, value)| {
        // The value may be a secret.
        let fault =
            || format!("the header {name:?} is not sound; write name=value, with commas between");
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| fault())?;
        value.set_sensitive(true);
        Ok((header, value))
    });
    headers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(
        endpoint: &str,
        environment: &[(&str, &str)],
    ) -> Result<Option<TraceSettings>, Faults> {
        let mut faults = Faults::default();
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let settings = read(endpoint, variable, &mut faults);
        faults.settle(Some(())).map(|()| settings)
    }

    #[test]
    fn the_environment_of_opentelemetry_counts() {
        assert!(settings("", &[]).expect("sound").is_none());
        let disabled = [("OTEL_SDK_DISABLED", "true")];
        assert!(
            settings("http://c:4318", &disabled)
                .expect("sound")
                .is_none()
        );
        let environment = [
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Basic%20abc,x-scope = a",
            ),
            ("OTEL_SERVICE_NAME", "mirror"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,k8s.cluster.name=c1",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ];
        let found = settings("http://c:4318/", &environment)
            .expect("sound")
            .expect("on");
        assert_eq!(found.endpoint.as_str(), "http://c:4318/v1/traces");
        assert_eq!(found.headers.len(), 2);
        assert_eq!(found.headers[0].1, "Basic abc");
        assert!(!format!("{found:?}").contains("abc"), "{found:?}");
        assert_eq!(
            (&*found.service, found.timeout),
            ("mirror", Duration::from_millis(250))
        );
        assert_eq!(
            found.attributes,
            [("k8s.cluster.name".to_owned(), "c1".to_owned())]
        );
        let whole = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/other")];
        let found = settings("", &whole).expect("sound").expect("on");
        assert_eq!(found.endpoint.as_str(), "https://c/other");
    }

    #[test]
    fn what_cannot_work_is_told_and_no_secret_with_it() {
        let environment = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=s3cret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_TRACES_SAMPLER", "often"),
        ];
        let told = settings("http://me:s3cret@c", &environment)
            .expect_err("at fault")
            .to_string();
        assert_eq!(told.matches("\n  ").count(), 5, "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}
