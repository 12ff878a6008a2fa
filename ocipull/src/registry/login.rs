//! Checking credentials before they are stored.

use ureq::http::Method;

use super::ask::Ask;
use super::endpoint::Access;
use super::mirrors::{For, Mirrors};
use crate::{Error, Options, name};

/// Shows the credentials in `options` to the registry `host`, as `docker login` does. Returns
/// whether it asked for any; one that does not accepts every client.
///
/// ```no_run
/// use ocipull::{Credentials, Options, Secret, check_login};
///
/// let options = Options::default().credentials(Credentials::Basic {
///     username: "reader".to_owned(),
///     password: Secret::new("secret"),
/// });
/// if !check_login("registry.example.org", &options)? {
///     println!("the registry asks nobody for credentials");
/// }
/// # Ok::<(), ocipull::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Unauthorized`] where the registry or its token service refuses them;
/// [`Error::InvalidReference`]; [`Error::Protocol`] where there is no registry; and those of the
/// network.
pub fn check_login(host: &str, options: &Options) -> Result<bool, Error> {
    if !name::is_host(host) {
        return Err(Error::InvalidReference {
            text: host.to_owned(),
            problem: "not the name of a registry".to_owned(),
        });
    }
    let host = host.to_ascii_lowercase();
    // The options of a registry are those of its repositories.
    let mirrors = Mirrors::new(&host, "login", options)?;
    let checked = mirrors.first(For::Primary, |endpoint| {
        let url = endpoint.base.origin.url("/v2/");
        endpoint.ask(Ask::new(Method::GET, &url, Access::Login))?;
        Ok(endpoint.authorization(&Access::Login).is_some())
    });
    checked.map_err(|error| match error {
        Error::Unauthorized {
            host,
            credentials,
            message,
            ..
        } => Error::Unauthorized {
            host,
            repository: "logging in".to_owned(),
            credentials,
            message,
        },
        Error::NotFound { host, .. } => Error::Protocol {
            url: format!("{host}/v2/"),
            problem: "the server is not a registry".to_owned(),
        },
        other => other,
    })
}
