//! Who may send a request: the right host, the right origin, a valid credential, the right role.

use std::net::SocketAddr;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use cogward_api::ProblemCode;
use cogward_identity::VerifyError;
use http::{HeaderMap, Method, header};

use crate::{extract::Caller, failure::Failure, plane::App};

/// Refuses what a page in a browser could send: another host name that was pointed here (DNS
/// rebinding), or a request on behalf of another origin.
pub(crate) fn same_host(address: SocketAddr, headers: &HeaderMap, authority: Option<&str>) -> Result<(), Failure> {
    let port = address.port();
    let ours = |host: &str| {
        ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
            host.strip_prefix(name).is_some_and(|rest| {
                rest.strip_prefix(':').map_or(rest.is_empty() && port == 80, |p| p.parse() == Ok(port))
            })
        })
    };
    let refuse = |what: &str| {
        Failure::new(ProblemCode::Forbidden, format!("the request's {what} is not this plane's address"))
            .rule("http.host")
            .next_step(format!("send it to http://{address}"))
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, _) => authority,
        (Some(_), Some(_)) => None,
    };
    if !host.is_some_and(ours) || authority.is_some_and(|a| !ours(a)) {
        return Err(refuse("host"));
    }
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().ok().and_then(|o| o.strip_prefix("http://")).is_some_and(ours) {
            return Err(refuse("origin"));
        }
    }
    Ok(())
}

/// The layer of every route that needs a credential.
pub(crate) async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if !app.is_accepting() {
        return Failure::new(ProblemCode::NotReady, "the plane is stopping").into_response();
    }
    let refuse = |detail: &str| {
        Failure::new(ProblemCode::Unauthenticated, detail)
            .next_step(
                "send `Authorization: Bearer <operator credential>`; the command line takes it from `cogward login`",
            )
            .into_response()
    };
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else { return refuse("the request has no operator credential") };
    let operator = match app.operators.verify(token).await {
        Ok(operator) => operator,
        Err(VerifyError::Refused) => {
            // Without an answer of the state the count is of nobody's credential.
            app.turned_away.login(app.operators.claimed_by(token).await.unwrap_or_default());
            return refuse("the operator credential is not valid");
        }
        Err(error) => return Failure::internal("the credential cannot be checked", &error).into_response(),
    };
    if request.method() != Method::GET && !operator.may_write() {
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        app.turned_away.role(&operator, request.method(), route);
        return Failure::new(ProblemCode::Forbidden, "an auditor reads and changes nothing")
            .rule("operator.role")
            .into_response();
    }
    request.extensions_mut().insert(Caller(operator));
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_our_own_address_and_origin_pass() {
        let address: SocketAddr = "127.0.0.1:7420".parse().unwrap();
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            same_host(address, &headers, None).is_ok()
        };
        assert!(check("127.0.0.1:7420", None));
        assert!(check("localhost:7420", Some("http://localhost:7420")));
        for host in [
            "evil.example",
            "evil.example:7420",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1.evil.example:7420",
            "localhost:7420@evil.example",
            "localhost:07420x",
            "",
        ] {
            assert!(!check(host, None), "{host}");
        }
        for origin in ["http://evil.example", "null", "https://127.0.0.1:7420", "http://127.0.0.1:7420.evil.example"] {
            assert!(!check("127.0.0.1:7420", Some(origin)), "{origin}");
        }
        assert!(same_host(address, &HeaderMap::new(), None).is_err());
        assert!(same_host(address, &HeaderMap::new(), Some("evil.example:7420")).is_err());
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("127.0.0.1:7420"));
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(same_host(address, &two, None).is_err());
    }
}
