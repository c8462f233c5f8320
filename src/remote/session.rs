//! A session with a registry for one pull: its hosts, connections and authorizations. [`Session::abort`] ends all its waits.
use super::auth::{self, Challenge, Credentials, Login, TokenAnswer, TokenKey, Tokens};
use super::fault::{self, Cure, Fault};
use super::hosts::{Host, Hosts, Scheme};
use super::http::{self, AgentKey, Answer, Ask};
use super::reference::Reference;
use super::tls;
use crate::error::{Error, Kind, Result};
use crate::thread::lock;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Method, Uri};

/// Largest error body that is looked at.
const ERROR_BODY_MAX: u64 = 64 << 10;
/// Largest answer of a token server.
const TOKEN_BODY_MAX: u64 = 1 << 20;
/// Longest wait that a host may ask for by Retry-After.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How failed requests are tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Rounds over the hosts, the first included.
    pub rounds: u32,
    /// Wait after the first round; it doubles.
    pub first: Duration,
    /// Longest wait of our own.
    pub most: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { rounds: 5, first: Duration::from_millis(250), most: Duration::from_secs(8) }
    }
}

/// Settings of all sessions.
#[derive(Clone, Default)]
pub struct Config {
    /// Where hosts are configured.
    pub hosts: Hosts,
    /// Credentials of the daemon's own configuration, by host, used when a request brings none.
    pub auths: HashMap<String, Credentials>,
    /// How failed requests are tried again.
    pub retry: Retry,
    /// A pull ends when no byte came for so long; none = never.
    pub progress_timeout: Option<Duration>,
}

/// The registry client: settings and the tokens that sessions share.
#[derive(Clone)]
pub struct Client {
    config: Arc<Config>,
    tokens: Arc<Tokens>,
}

impl Client {
    /// A client; nothing is asked so far.
    pub fn new(config: Config) -> Client {
        Client { config: Arc::new(config), tokens: Arc::default() }
    }

    /// A session for one image; reads the host files as they are now.
    pub fn session(&self, reference: &Reference, login: &Login) -> Result<Arc<Session>> {
        let hosts = self.config.hosts.of(&reference.host)?;
        let (alive, aborted) = bounded(0);
        Ok(Arc::new(Session {
            client: self.clone(),
            reference: reference.clone(),
            login: login.clone(),
            state: Mutex::new(State { alive: Some(alive), ..State::default() }),
            hosts,
            aborted,
        }))
    }
}

/// See the module.
pub struct Session {
    client: Client,
    reference: Reference,
    login: Login,
    hosts: Vec<Host>,
    aborted: Receiver<Infallible>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Dropped by `abort`; every wait sees that.
    alive: Option<Sender<Infallible>>,
    agents: HashMap<AgentKey, Agent>,
    /// The scheme that a host turned out to speak.
    schemes: HashMap<usize, Scheme>,
    /// What a host wants to see, once it has said so.
    authorizations: HashMap<usize, String>,
    /// Hosts that could not be reached: asked only when all others fail.
    down: HashSet<usize>,
}

/// What a request needs a host to be good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Content by digest.
    Pull,
    /// A tag's digest.
    Resolve,
}

/// One request to a registry's API.
pub struct Get<'a> {
    /// GET or HEAD.
    pub method: Method,
    /// `manifests/latest`, `blobs/sha256:…`.
    pub object: &'a str,
    /// Accept and Range.
    pub headers: Vec<(&'static str, String)>,
}

impl Session {
    /// The image that it is for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Ends all requests, reads and waits, now and from now on.
    pub fn abort(&self) {
        let agents: Vec<Agent> = {
            let mut state = lock(&self.state);
            state.alive = None;
            state.agents.drain().map(|(_, agent)| agent).collect()
        };
        for agent in agents {
            agent.shutdown();
        }
    }

    /// An error once the session was aborted.
    pub fn check(&self) -> Result<()> {
        match self.aborted.try_recv() {
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(Error::new(Kind::Cancelled, "the pull was cancelled")),
            _ => Ok(()),
        }
    }

    /// Disconnects when the session is aborted: for `select!`.
    pub fn aborted(&self) -> &Receiver<Infallible> {
        &self.aborted
    }

    /// Calls `attempt` on each host that is good for `need`, in order, and again after a pause where that may help.
    /// The error names every host that was asked.
    pub fn on_hosts<T>(&self, need: Need, attempt: impl Fn(usize) -> Result<T, Fault>) -> Result<T> {
        let able = |h: &Host| h.can.pull && (need == Need::Pull || h.can.resolve);
        let mut left: Vec<usize> = (0..self.hosts.len()).filter(|i| able(&self.hosts[*i])).collect();
        if left.is_empty() {
            let host = &self.reference.host;
            return Err(Error::precondition(format!(
                "{}: no host with the capability \"{need:?}\" is configured for {host}",
                self.reference
            )));
        }
        let down = lock(&self.state).down.clone();
        left.sort_by_key(|i| down.contains(i));
        let mut faults: HashMap<usize, Fault> = HashMap::new();
        let retry = self.client.config.retry;
        for round in 0..retry.rounds.max(1) {
            for &host in &left {
                self.check()?;
                match attempt(host) {
                    Ok(value) => return Ok(value),
                    Err(fault) => {
                        self.check()?;
                        if fault.cure == Cure::Nothing {
                            return Err(fault.error);
                        }
                        if fault.cure == Cure::Reach {
                            lock(&self.state).down.insert(host);
                        }
                        log::debug!("pull of {}: {}", self.reference, fault.error.chain());
                        faults.insert(host, fault);
                    }
                }
            }
            left.retain(|i| faults.get(i).is_some_and(|f| matches!(f.cure, Cure::Reach | Cure::Later)));
            if left.is_empty() || round + 1 == retry.rounds {
                break;
            }
            let asked = left.iter().filter_map(|i| faults[i].wait).min().unwrap_or_default();
            self.pause((retry.first * 2u32.saturating_pow(round)).min(retry.most).max(asked.min(RETRY_AFTER_MAX)))?;
        }
        Err(self.verdict(faults))
    }

    /// Waits, unless the session is aborted meanwhile.
    pub fn pause(&self, time: Duration) -> Result<()> {
        match self.aborted.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => self.check(),
        }
    }

    /// One error out of those of all hosts; the kind is the most telling one's.
    fn verdict(&self, faults: HashMap<usize, Fault>) -> Error {
        let mut faults: Vec<(usize, Fault)> = faults.into_iter().collect();
        faults.sort_by_key(|(host, _)| *host);
        let named = |host: usize, text: String| match &self.hosts[host].authority {
            name if text.starts_with(name.as_str()) => text,
            name => format!("{name}: {text}"),
        };
        let texts: Vec<String> = faults.iter().map(|(host, f)| named(*host, f.error.chain())).collect();
        let text = format!("{}: {}", self.reference, texts.join("; "));
        if faults.iter().all(|(_, f)| f.cure == Cure::Reach) {
            // The kubelet looks for this word at the beginning of an error of kind Unknown.
            return Error::new(Kind::Unknown, format!("RegistryUnavailable: {text}"));
        }
        let rank = |k: Kind| [Kind::NotFound, Kind::PermissionDenied, Kind::Unauthenticated].iter().position(|x| *x == k);
        let kind = faults.iter().map(|(_, f)| f.error.kind()).max_by_key(|k| rank(*k)).unwrap_or(Kind::Unknown);
        Error::new(kind, text)
    }

    /// Asks a host's API; the answer's status is 2xx.
    pub fn get(&self, host: usize, get: &Get<'_>) -> Result<Answer, Fault> {
        let config = &self.hosts[host];
        let known = lock(&self.state).schemes.get(&host).copied();
        let schemes = known.map_or(config.schemes.clone(), |s| vec![s]);
        let (last, others) = schemes.split_last().ok_or_else(|| Fault::new(Cure::OtherHost, Error::internal("host without scheme")))?;
        for &scheme in others {
            match self.get_by(host, scheme, get) {
                // A TLS server answers a plain request with 400 or by hanging up; a plain one breaks the TLS handshake.
                Ok(answer) if scheme == Scheme::Http && answer.status == 400 => {}
                Ok(answer) => {
                    lock(&self.state).schemes.insert(host, scheme);
                    return self.expect_success(host, get, answer);
                }
                Err(fault) if matches!(fault.cure, Cure::Reach | Cure::Later) && fault.wait.is_none() => {}
                Err(fault) => return Err(fault),
            }
            self.check().map_err(|e| Fault::new(Cure::Nothing, e))?;
        }
        let answer = self.get_by(host, *last, get)?;
        lock(&self.state).schemes.insert(host, *last);
        self.expect_success(host, get, answer)
    }

    /// Reads what a URL of the manifest's own holds: without any credentials or headers of the registry's.
    pub fn get_foreign(&self, url: &Uri, headers: Vec<(&'static str, String)>) -> Result<Answer, Fault> {
        let host = Host { tls: Default::default(), dial_timeout: None, ..self.hosts[0].clone() };
        let ask = Ask { method: Method::GET, url: url.to_string(), headers, private: vec![], form: None };
        let progress = self.client.config.progress_timeout;
        let answer = http::send(&ask, &|uri, _| {
            // usize::MAX: settings of no host.
            self.agent(AgentKey::of(usize::MAX, tls::Client::Hidden, uri), |key| http::agent(&host, key, progress))
        })?;
        self.expect_success_of(url.host().unwrap_or_default(), "layer", answer)
    }

    fn get_by(&self, host: usize, scheme: Scheme, get: &Get<'_>) -> Result<Answer, Fault> {
        let config = &self.hosts[host];
        let mut url = format!("{}://{}{}/{}/{}", scheme.as_str(), config.authority, config.path, self.reference.repository, get.object);
        if config.is_mirror_of(&self.reference.host) {
            url.push_str("?ns=");
            url.extend(percent_encoding::utf8_percent_encode(&self.reference.host, percent_encoding::NON_ALPHANUMERIC));
        }
        let known = lock(&self.state).authorizations.get(&host).cloned();
        let mut answer = self.send(host, &url, get, known)?;
        // A first 401 is the challenge; a second may mean that a cached token was withdrawn.
        for fresh in [false, true] {
            if answer.status != 401 || !answer.own {
                break;
            }
            let Some(value) = self.authorize(host, scheme, &answer, fresh)? else { break };
            answer = self.send(host, &url, get, Some(value.clone()))?;
            if answer.status != 401 {
                lock(&self.state).authorizations.insert(host, value);
            }
        }
        Ok(answer)
    }

    fn send(&self, host: usize, url: &str, get: &Get<'_>, authorization: Option<String>) -> Result<Answer, Fault> {
        let mut private = self.hosts[host].headers.clone();
        private.extend(authorization.map(|value| ("authorization".to_string(), value)));
        let ask = Ask { method: get.method.clone(), url: url.to_string(), headers: get.headers.clone(), private, form: None };
        self.run(host, &ask)
    }

    fn run(&self, host: usize, ask: &Ask) -> Result<Answer, Fault> {
        let progress = self.client.config.progress_timeout;
        http::send(ask, &|uri, own| {
            let client = if own { tls::Client::Shown } else { tls::Client::Hidden };
            self.agent(AgentKey::of(host, client, uri), |key| http::agent(&self.hosts[host], key, progress))
        })
    }

    fn agent(&self, key: AgentKey, make: impl FnOnce(&AgentKey) -> Result<Agent>) -> Result<Agent> {
        if let Some(agent) = lock(&self.state).agents.get(&key) {
            return Ok(agent.clone());
        }
        // Made outside the lock: it reads certificate files.
        let made = make(&key)?;
        let mut state = lock(&self.state);
        if state.alive.is_none() {
            return Err(Error::new(Kind::Cancelled, "the pull was cancelled"));
        }
        Ok(state.agents.entry(key).or_insert(made).clone())
    }

    /// The Authorization value that answers a challenge; none if we have nothing to answer with.
    fn authorize(&self, host: usize, scheme: Scheme, answer: &Answer, fresh: bool) -> Result<Option<String>, Fault> {
        let authority = &self.hosts[host].authority;
        let credentials = self.credentials(host);
        if let Credentials::RegistryToken(token) = &credentials {
            return Ok((!fresh).then(|| format!("Bearer {token}")));
        }
        let headers = answer.headers.get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok());
        let challenges: Vec<Challenge> = headers.flat_map(auth::challenges).collect();
        for challenge in &challenges {
            if let Challenge::Bearer { realm, service, scope } = challenge {
                let scope = if scope.is_empty() { format!("repository:{}:pull", self.reference.repository) } else { scope.clone() };
                let key = TokenKey { authority: authority.clone(), realm: realm.clone(), service: service.clone(), scope, credentials };
                return self.token(host, scheme, key, fresh).map(Some);
            }
        }
        match credentials {
            Credentials::Basic { user, password } if !fresh && challenges.contains(&Challenge::Basic) => {
                Ok(Some(auth::basic(&user, &password)))
            }
            _ => Ok(None),
        }
    }

    fn credentials(&self, host: usize) -> Credentials {
        let host = &self.hosts[host];
        let name = host.credential_domain.as_ref().unwrap_or(&host.authority);
        match self.login.for_host(name) {
            Credentials::Anonymous if self.login.credentials == Credentials::Anonymous => {
                auth::of_host(&self.client.config.auths, name).cloned().unwrap_or_default()
            }
            own => own.clone(),
        }
    }

    fn token(&self, host: usize, scheme: Scheme, key: TokenKey, fresh: bool) -> Result<String, Fault> {
        let tokens = &self.client.tokens;
        if fresh {
            tokens.forget(&key);
        } else if let Some(token) = tokens.get(&key) {
            return Ok(format!("Bearer {token}"));
        }
        let realm: Uri = key.realm.parse().map_err(|_| self.refuse(host, "names a token server that is no URL"))?;
        let name = realm.host().unwrap_or_default().to_string();
        let secret = key.credentials != Credentials::Anonymous;
        if secret && scheme == Scheme::Https && realm.scheme_str() != Some("https") {
            return Err(self.refuse(host, "wants credentials sent to a token server over plain http; refused"));
        }
        let answer = self.run(host, &token_request(&key, &realm))?;
        let status = answer.status;
        let object = format!("token for {}", self.hosts[host].authority);
        let answer = self.expect_success_of(&name, &object, answer)?;
        let mut body = vec![];
        answer.body.take(TOKEN_BODY_MAX).read_to_end(&mut body).map_err(|e| Fault::of_body(&name, e))?;
        let parsed: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let life = parsed.as_ref().and_then(|p| p.expires_in);
        let token = parsed.and_then(TokenAnswer::token).ok_or_else(|| {
            let why = fault::reason("", &body, &[]);
            let why = if why.contains("HTML page") { why } else { "no token in its answer".to_string() };
            Fault::new(Cure::OtherHost, Error::new(Kind::Unknown, format!("{name}: {object}: {why} (HTTP {})", status.as_u16())))
        })?;
        tokens.put(key, token.clone(), life);
        Ok(format!("Bearer {token}"))
    }

    fn refuse(&self, host: usize, why: &str) -> Fault {
        Fault::new(Cure::OtherHost, Error::new(Kind::Unauthenticated, format!("{}: {why}", self.hosts[host].authority)))
    }

    fn expect_success(&self, host: usize, get: &Get<'_>, answer: Answer) -> Result<Answer, Fault> {
        self.expect_success_of(&self.hosts[host].authority, get.object, answer)
    }

    fn expect_success_of(&self, host: &str, object: &str, answer: Answer) -> Result<Answer, Fault> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let wait = retry_after(answer.header("retry-after"));
        let (status, content_type) = (answer.status.as_u16(), answer.header("content-type").to_string());
        let mut body = vec![];
        // What can be read of the reason is enough; the status already says that it failed.
        let _ = answer.body.take(ERROR_BODY_MAX).read_to_end(&mut body);
        let authorizations: Vec<String> = lock(&self.state).authorizations.values().cloned().collect();
        let mut secrets: Vec<&str> = authorizations.iter().filter_map(|a| a.split_once(' ')).map(|(_, s)| s).collect();
        secrets.extend(self.client.config.auths.values().chain([&self.login.credentials]).filter_map(Credentials::secret));
        let fault = Fault::of_status(host, object, status, &fault::reason(&content_type, &body, &secrets));
        Err(Fault { wait, ..fault })
    }
}

/// GET with a password or nothing; POST with an identity token.
fn token_request(key: &TokenKey, realm: &Uri) -> Ask {
    let encode = |s: &str| percent_encoding::utf8_percent_encode(s, percent_encoding::NON_ALPHANUMERIC).to_string();
    let scopes = key.scope.split(' ').filter(|s| !s.is_empty());
    if let Credentials::IdentityToken(token) = &key.credentials {
        let form = format!(
            "grant_type=refresh_token&service={}&client_id=cradled&scope={}&refresh_token={}",
            encode(&key.service),
            encode(&key.scope),
            encode(token)
        );
        let headers = vec![("content-type", "application/x-www-form-urlencoded; charset=utf-8".to_string())];
        return Ask { method: Method::POST, url: realm.to_string(), headers, private: vec![], form: Some(form) };
    }
    let mut pairs = vec![];
    if !key.service.is_empty() {
        pairs.push(format!("service={}", encode(&key.service)));
    }
    pairs.extend(scopes.map(|s| format!("scope={}", encode(s))));
    let joint = if realm.query().is_some() { '&' } else { '?' };
    let private = match &key.credentials {
        Credentials::Basic { user, password } => vec![("authorization".to_string(), auth::basic(user, password))],
        _ => vec![],
    };
    Ask { method: Method::GET, url: format!("{realm}{joint}{}", pairs.join("&")), headers: vec![], private, form: None }
}

/// Seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    // Dates need a parser that nothing else here needs; a host that sends one gets our own pause.
    value.trim().parse().ok().map(Duration::from_secs)
}
