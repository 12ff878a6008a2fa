//! The lists that a repository has: of its tags, and of what refers to a manifest.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::Method;

use super::ask::Ask;
use super::endpoint::{Access, Endpoint};
use super::mirrors::For;
use super::repository::Repository;
use super::retry::Failure;
use super::url::{Url, encode};
use crate::source::MAX_MANIFEST;
use crate::{Digest, Document, Error};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The most pages of a list, and tags in it: a registry could send an endless list.
const MAX_PAGES: usize = 10_000;
const MAX_TAGS: usize = 1_000_000;

/// A manifest that refers to another one: a signature, a list of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    digest: Digest,
    size: u64,
    artifact_type: Option<String>,
}

impl Referrer {
    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The type of artifact.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref()
    }
}

impl Repository {
    /// The repository's tags, in the registry's order.
    ///
    /// ```no_run
    /// let options = ocipull::Options::default();
    /// let repository = ocipull::Repository::new("registry.example", "team/app", &options)?;
    /// for tag in repository.tags()? {
    ///     println!("{tag}");
    /// }
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Unauthorized`], and those of the network.
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        self.mirrors.first_with(For::Primary, |endpoint| {
            let mut tags = Vec::new();
            let mut url = endpoint.url("/tags/list").with_query("n=1000");
            for _ in 0..MAX_PAGES {
                let (page, next) = endpoint.retrying(|| {
                    let ask = Ask::new(Method::GET, &url, Access::Pull);
                    let (page, link): (Page, _) = json(endpoint, ask)?;
                    let next = link.map(|link| endpoint.follow(&url, &link));
                    Ok((page, next.transpose()?))
                })?;
                tags.extend(page.tags.unwrap_or_default());
                match next {
                    Some(_) if tags.len() >= MAX_TAGS => break,
                    Some(next) if next != url => url = next,
                    _ => return Ok(tags),
                }
            }
            let endless = endpoint.protocol(&url, "the list of tags does not end");
            Err(*endless.error)
        })
    }

    /// The manifests that refer to the one with the digest `subject`: those of one artifact type,
    /// or all.
    ///
    /// Where the registry has no such list of its own, it is the index under the tag that the
    /// specification sets for it.
    ///
    /// ```no_run
    /// use ocipull::{Options, Repository};
    ///
    /// let repository = Repository::new("registry.example", "team/app", &Options::default())?;
    /// for referrer in repository.referrers(&repository.resolve("v1")?, None)? {
    ///     println!("{} of {:?}", referrer.digest(), referrer.artifact_type());
    /// }
    /// # Ok::<(), ocipull::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`], and those of the network.
    pub fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, Error> {
        let listed = self.mirrors.first(For::Primary, |endpoint| {
            let mut url = endpoint.url(&format!("/referrers/{subject}"));
            if let Some(artifact_type) = artifact_type {
                url = url.with_query(&format!("artifactType={}", encode(artifact_type)));
            }
            let ask = Ask::new(Method::GET, &url, Access::Pull).header("accept", INDEX);
            json::<Index>(endpoint, ask).map(|(index, _)| index)
        });
        let index = match listed {
            Ok(index) => index,
            Err(Error::NotFound { .. }) => {
                let tag = format!("{}-{}", subject.algorithm(), subject.hex());
                match self.manifest(tag.get(..128).unwrap_or(&tag)) {
                    Ok(manifest) => {
                        serde_json::from_slice(manifest.bytes()).map_err(|source| Error::Json {
                            document: Document::Index,
                            digest: manifest.digest().clone(),
                            source,
                        })?
                    }
                    Err(Error::NotFound { .. }) => Index::default(),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let all = index.manifests.into_iter().map(|entry| {
            Ok(Referrer {
                digest: entry.digest.parse()?,
                size: entry.size,
                artifact_type: entry.artifact_type.filter(|text| !text.is_empty()),
            })
        });
        let all: Result<Vec<_>, Error> = all.collect();
        let mut referrers = all?;
        // Filtering is the registry's choice.
        referrers
            .retain(|referrer| artifact_type.is_none_or(|t| referrer.artifact_type() == Some(t)));
        Ok(referrers)
    }
}

#[derive(Default, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexEntry {
    digest: String,
    size: u64,
    artifact_type: Option<String>,
}

/// A document, and the address of its next page.
fn json<T: DeserializeOwned>(
    endpoint: &Endpoint,
    ask: Ask<'_>,
) -> Result<(T, Option<String>), Failure> {
    let url: Url = ask.url.clone();
    let mut answer = endpoint.ask(ask)?;
    let next = answer.header("link").and_then(next_link);
    let (bytes, complete) = answer
        .bounded(MAX_MANIFEST)
        .map_err(|broken| endpoint.broken(&url, 0, broken))?;
    let parsed = serde_json::from_slice(&bytes).ok().filter(|_| complete);
    let parsed =
        parsed.ok_or_else(|| endpoint.protocol(&url, "the answer is not the JSON expected"))?;
    Ok((parsed, next))
}

/// The target of a `Link` header (RFC 8288) to the next page.
fn next_link(header: &str) -> Option<String> {
    let (target, parameters) = header.trim().strip_prefix('<')?.split_once('>')?;
    let next = parameters.split(';').any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next"
    });
    next.then(|| target.to_owned())
}
