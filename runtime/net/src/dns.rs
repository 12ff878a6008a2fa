//! The guest's name server, at the gateway's address, over UDP and TCP.
//!
//! It answers as the host would: from extra hosts, the host's `/etc/hosts`, and then the host's
//! name servers, as in [`crate::ResolverData`]. Rules on names allow the addresses that it returns.

mod message;
pub(crate) mod question;
mod upstream;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use blockbox_protocol::network::HostEntry;
use hickory_proto::op::ResponseCode;
use slab::Slab;

use self::message::{Asked, Read};
use self::question::{Client, Question};
use self::upstream::Race;
use crate::config::ResolverData;
use crate::policy::HOST_NAME;
use crate::shared::{self, Shared};
use crate::token::{self, Kind};

/// The most pending queries to name servers.
const WAITING: usize = 256;
/// How long a server that did not answer is used last.
const DOWN: Duration = Duration::from_secs(30);
const LONGEST: usize = 65_535;

struct Waiting {
    client: Client,
    asked: Asked,
    /// The identifier for the servers: the guest's own would be easy to guess.
    id: u16,
    message: Vec<u8>,
    race: Race,
    /// The last failure that a server reported.
    failure: Option<Vec<u8>>,
}

/// The guest's name server.
pub(crate) struct Dns {
    data: ResolverData,
    extra: Vec<HostEntry>,
    waiting: Slab<Waiting>,
    down: HashMap<SocketAddr, Instant>,
    buffer: Vec<u8>,
    /// The answers of this turn.
    pub(crate) answers: Vec<(Client, Vec<u8>)>,
    /// Queries since the start.
    pub(crate) total: u64,
}

impl Dns {
    pub(crate) fn new(data: ResolverData, extra: Vec<HostEntry>) -> Self {
        Self {
            data,
            extra,
            waiting: Slab::new(),
            down: HashMap::new(),
            buffer: vec![0; LONGEST],
            answers: Vec::new(),
            total: 0,
        }
    }

    /// Replaces the host's resolver; pending queries continue.
    pub(crate) fn replace(&mut self, data: ResolverData) {
        self.data = data;
        self.down.clear();
    }

    /// Answers a query, or sends it to the host's name servers.
    pub(crate) fn ask(&mut self, question: Question, shared: &mut Shared) {
        self.total += 1;
        let client = question.client;
        let asked = match message::read(&question.message) {
            Read::Asked(asked) => asked,
            Read::Reply(reply) => return self.answers.push((client, reply)),
            // On a connection, each query needs an answer.
            Read::Nothing => return self.answers.push((client, Vec::new())),
        };
        // A query that a program repeats over UDP gets the same answer.
        let again = |waiting: &Waiting| {
            matches!(client, Client::Datagram { .. })
                && waiting.client == client
                && waiting.asked.id == asked.id
                && waiting.asked.query == asked.query
        };
        if self.waiting.iter().any(|(_, waiting)| again(waiting)) {
            return;
        }
        if let Some(addresses) = self.own(&asked.name, shared) {
            return self
                .answers
                .extend(asked.addresses(&addresses).map(|reply| (client, reply)));
        }
        if let Err(denial) = shared.policy.may_resolve(&asked.name) {
            shared.denials.record(*denial);
            return self.fail(client, &asked, ResponseCode::Refused);
        }
        let known = self.hosts(&asked.name);
        if !known.is_empty() {
            for address in &known {
                shared
                    .policy
                    .names
                    .learn(&asked.name, *address, Duration::ZERO, shared.now);
            }
            return self
                .answers
                .extend(asked.addresses(&known).map(|reply| (client, reply)));
        }
        self.forward(client, asked, question.message, shared);
    }

    /// Returns the addresses of the gateway's own names.
    fn own(&self, name: &str, shared: &Shared) -> Option<Vec<IpAddr>> {
        if name == HOST_NAME {
            // A program that tries only one address reaches servers on the host's 127.0.0.1.
            return Some(vec![shared.addresses.host_v4.into()]);
        }
        // RFC 6761: never sent to a server.
        (name == "localhost" || name.ends_with(".localhost"))
            .then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }

    /// Returns the addresses of a name in extra hosts, or else in the host's `/etc/hosts`.
    fn hosts(&self, name: &str) -> Vec<IpAddr> {
        let of = |entries: &[HostEntry]| -> Vec<IpAddr> {
            entries
                .iter()
                .filter(|entry| entry.name.trim_end_matches('.').eq_ignore_ascii_case(name))
                .map(|entry| entry.address)
                .collect()
        };
        let extra = of(&self.extra);
        if extra.is_empty() {
            of(&self.data.hosts)
        } else {
            extra
        }
    }

    fn fail(&mut self, client: Client, asked: &Asked, code: ResponseCode) {
        self.answers
            .extend(asked.error(code).map(|reply| (client, reply)));
    }

    fn forward(&mut self, client: Client, asked: Asked, message: Vec<u8>, shared: &mut Shared) {
        let stream = matches!(client, Client::Connection(_));
        let attempts = upstream::attempts(&self.data.nameservers, &asked.name, stream, |server| {
            self.down
                .get(&server)
                .is_some_and(|until| *until > shared.now)
        });
        if self.waiting.len() >= WAITING || attempts.is_empty() {
            return self.fail(client, &asked, ResponseCode::ServFail);
        }
        let id = u16::try_from(shared::random() & 0xffff).unwrap_or(0);
        let index = self.waiting.insert(Waiting {
            client,
            asked,
            id,
            message: message::with_id(message, id),
            race: Race::new(attempts, shared.now),
            failure: None,
        });
        self.next(index, shared);
    }

    /// Sends the query to the next server, or gives up if there is none and no answer is pending.
    fn next(&mut self, index: usize, shared: &mut Shared) {
        let token = token::pack(Kind::Dns, index);
        let Some(waiting) = self.waiting.get_mut(index) else {
            return;
        };
        let asked = waiting
            .race
            .ask(&waiting.message, &shared.registry, token, shared.now);
        if !asked && waiting.race.asked.is_empty() {
            self.give_up(index);
        }
    }

    fn give_up(&mut self, index: usize) {
        if let Some(waiting) = self.waiting.try_remove(index) {
            let reply = waiting
                .failure
                .or_else(|| waiting.asked.error(ResponseCode::ServFail));
            self.answers
                .extend(reply.map(|reply| (waiting.client, reply)));
        }
    }

    /// Handles answers of name servers to a query.
    pub(crate) fn event(&mut self, index: usize, shared: &mut Shared) {
        let Some(waiting) = self.waiting.get_mut(index) else {
            return;
        };
        let mut place = 0;
        let mut failed = false;
        while let Some(upstream) = waiting.race.asked.get_mut(place) {
            let bytes = match upstream.read(&mut self.buffer) {
                Ok(None) => {
                    place += 1;
                    continue;
                }
                Ok(Some(bytes)) => bytes,
                Err(_) => {
                    self.down.insert(upstream.attempt.server, shared.now + DOWN);
                    waiting.race.asked.remove(place);
                    failed = true;
                    continue;
                }
            };
            let stream = upstream.attempt.stream;
            let Some(message) = waiting.asked.answer(waiting.id, &bytes) else {
                // This is not the answer, and a stream carries no other.
                if stream {
                    waiting.race.asked.remove(place);
                    failed = true;
                }
                continue;
            };
            let bytes = message::with_id(bytes, waiting.asked.id);
            if message::is_failure(message.metadata.response_code) {
                waiting.failure = Some(bytes);
                waiting.race.asked.remove(place);
                failed = true;
                continue;
            }
            self.down.remove(&upstream.attempt.server);
            let waiting = self.waiting.remove(index);
            return self.finish(waiting, &message, bytes, shared);
        }
        if failed {
            self.next(index, shared);
        }
    }

    /// Returns an answer to the guest, unless it contains addresses that the name must not have.
    fn finish(
        &mut self,
        waiting: Waiting,
        message: &hickory_proto::op::Message,
        bytes: Vec<u8>,
        shared: &mut Shared,
    ) {
        let name = &waiting.asked.name;
        let addresses = || {
            message
                .answers
                .iter()
                .filter_map(|record| Some((record.data.ip_addr()?, record.ttl)))
        };
        for (address, _) in addresses() {
            if let Err(denial) = shared.policy.may_answer(name, address) {
                shared.denials.record(*denial);
                return self.fail(waiting.client, &waiting.asked, ResponseCode::Refused);
            }
        }
        for (address, ttl) in addresses() {
            let ttl = Duration::from_secs(ttl.into());
            shared.policy.names.learn(name, address, ttl, shared.now);
        }
        self.answers.push((waiting.client, bytes));
    }

    /// Returns when [`run`](Self::run) must be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .map(|(_, waiting)| waiting.race.next.min(waiting.race.until))
            .min()
    }

    /// Tries the next server for queries without an answer, and gives up after the last.
    pub(crate) fn run(&mut self, shared: &mut Shared) {
        let due: Vec<usize> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.race.next.min(waiting.race.until) <= shared.now)
            .map(|(index, _)| index)
            .collect();
        for index in due {
            let Some(waiting) = self.waiting.get_mut(index) else {
                continue;
            };
            if waiting.race.until <= shared.now {
                self.give_up(index);
                continue;
            }
            if let Some(silent) = waiting.race.asked.last() {
                self.down.insert(silent.attempt.server, shared.now + DOWN);
            }
            self.next(index, shared);
        }
        if self.down.len() > WAITING {
            self.down.retain(|_, until| *until > shared.now);
        }
    }
}
