//! Requesting bearer tokens from token services.
//!
//! The protocol is the distribution project's "Token Authentication Specification" and its OAuth
//! 2.0 variant.

use serde::Deserialize;
use ureq::http::Method;

use super::challenge::Challenge;
use super::endpoint::Endpoint;
use super::message::{MAX_ERROR, message};
use super::retry::Failure;
use super::transport::{Body, Request};
use super::url::{Scheme, Url, encode};
use crate::credentials::Login;
use crate::{Error, Secret};

/// The longest answer of a token service that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 5;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks the token service that `challenge` names for access with `scopes`, with the endpoint's
/// credentials.
pub(super) fn fetch(
    endpoint: &Endpoint,
    challenge: &Challenge,
    scopes: &[String],
) -> Result<Secret, Failure> {
    let realm = challenge.parameter("realm").unwrap_or_default();
    let realm = Url::parse(realm).map_err(|problem| {
        Failure::last(Error::Protocol {
            url: endpoint.base.to_string(),
            problem: format!(
                "the registry names a token service whose address is refused: {problem}"
            ),
        })
    })?;
    let login = &endpoint.found.login;
    // Only passwords and refresh tokens need the protection of TLS; anonymous tokens do not.
    if *login != Login::Anonymous && !may_send_secrets(endpoint, &realm) {
        return Err(Failure::last(Error::InsecureRealm {
            host: endpoint.host.clone(),
            url: realm.to_string(),
        }));
    }
    let mut parameters = Vec::new();
    if let Some(service) = challenge.parameter("service") {
        parameters.push(("service", service.as_bytes()));
    }
    let answer = match login {
        Login::Identity(token) => {
            let scope = scopes.join(" ");
            parameters.extend([
                ("grant_type", b"refresh_token".as_slice()),
                ("client_id", b"ocipull"),
                ("scope", scope.as_bytes()),
                ("refresh_token", token.reveal()),
            ]);
            post(endpoint, &realm, &form(&parameters))?
        }
        login => {
            parameters.extend(scopes.iter().map(|scope| ("scope", scope.as_bytes())));
            let authorization = match login {
                Login::Basic { username, password } => {
                    parameters.push(("account", username));
                    Some(basic(username, password))
                }
                _ => None,
            };
            get(
                endpoint,
                realm.with_query(&form(&parameters)),
                authorization,
            )?
        }
    };
    let token = answer.token.filter(|token| !token.is_empty());
    let token = token.or(answer.access_token).unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::last(Error::Protocol {
            url: realm.to_string(),
            problem: "the token service gave no valid token".to_owned(),
        }));
    }
    Ok(Secret::new(token))
}

/// Whether secrets of the endpoint may go to `url`: over TLS, or to the very server that plain HTTP
/// was asked for.
fn may_send_secrets(endpoint: &Endpoint, url: &Url) -> bool {
    url.origin.scheme == Scheme::Https || url.origin == endpoint.base.origin
}

/// The value of `Authorization` for a name and a password.
pub(super) fn basic(username: &[u8], password: &Secret) -> Secret {
    let encoded = crate::credentials::encode(username, password);
    Secret::new(format!("Basic {encoded}"))
}

fn form(parameters: &[(&str, &[u8])]) -> String {
    let pairs = parameters.iter();
    let pairs = pairs.map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn get(
    endpoint: &Endpoint,
    mut url: Url,
    mut authorization: Option<Secret>,
) -> Result<Answer, Failure> {
    for _ in 0..=MAX_REDIRECTS {
        let mut headers = Vec::new();
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization.reveal_text().into_owned()));
        }
        let request = request(endpoint, Method::GET, &url, headers, Body::None);
        let mut answer = endpoint.exchange(request, 0)?;
        if !answer.status.is_redirection() {
            return read(endpoint, &url, &mut answer);
        }
        let next = endpoint.redirect(&url, &answer)?;
        if next.origin != url.origin {
            authorization = None;
        }
        url = next;
    }
    Err(endpoint.too_many_redirects(&url))
}

/// A redirect of this request is a failure: its body is a secret.
fn post(endpoint: &Endpoint, url: &Url, form: &str) -> Result<Answer, Failure> {
    let content_type = "application/x-www-form-urlencoded".to_owned();
    let headers = vec![("content-type", content_type)];
    let body = Body::Bytes(form.as_bytes());
    let mut answer = endpoint.exchange(request(endpoint, Method::POST, url, headers, body), 0)?;
    read(endpoint, url, &mut answer)
}

fn request<'a>(
    endpoint: &Endpoint,
    method: Method,
    url: &'a Url,
    headers: Vec<(&'static str, String)>,
    body: Body<'a>,
) -> Request<'a> {
    Request {
        method,
        url,
        headers,
        body,
        insecure: endpoint.insecure && url.origin == endpoint.base.origin,
    }
}

fn read(
    endpoint: &Endpoint,
    url: &Url,
    answer: &mut super::transport::Answer,
) -> Result<Answer, Failure> {
    if !answer.status.is_success() {
        let status = answer.status.as_u16();
        let after = answer
            .header("retry-after")
            .and_then(super::retry::retry_after);
        let (body, _) = answer.bounded(MAX_ERROR).unwrap_or_default();
        let message = message(&body);
        return Err(match status {
            400..=404 => Failure::last(endpoint.unauthorized(message)),
            _ => endpoint.http_failure(url, status, message).after(after),
        });
    }
    let (body, complete) = answer
        .bounded(MAX_ANSWER)
        .map_err(|broken| endpoint.broken(url, 0, broken))?;
    let parsed = serde_json::from_slice(&body).ok().filter(|_| complete);
    // The parser's own message could quote a token.
    parsed.ok_or_else(|| {
        Failure::last(Error::Protocol {
            url: url.to_string(),
            problem: "the token service's answer is not valid JSON".to_owned(),
        })
    })
}
