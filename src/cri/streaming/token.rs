//! Tokens: a request that CRI has granted waits here for its client, who comes within a minute, once, or not at all.
use super::Request;
use crate::cri::new_id;
use crate::error::{Error, Kind, Result};
use crate::thread::lock;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a client may take.
pub const VALID: Duration = Duration::from_secs(60);
/// Most requests that wait.
const WAITING_MAX: usize = 1000;
/// Hex digits of a token: 128 random bits.
const DIGITS: usize = 32;

/// Requests that wait.
#[derive(Default)]
pub struct Tokens(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    by_token: HashMap<String, Request>,
    /// Oldest first; some may have been taken.
    ages: VecDeque<(Instant, String)>,
}

impl Tokens {
    /// Grants a request; its token.
    pub fn grant(&self, request: Request) -> Result<String> {
        self.grant_at(request, Instant::now())
    }
    fn grant_at(&self, request: Request, now: Instant) -> Result<String> {
        let mut token = new_id()?;
        token.truncate(DIGITS);
        let mut waiting = lock(&self.0);
        waiting.forget_old(now);
        if waiting.by_token.len() >= WAITING_MAX {
            let what = format!("{WAITING_MAX} streams were asked for and wait for their clients: try again later");
            return Err(Error::new(Kind::ResourceExhausted, what));
        }
        waiting.by_token.insert(token.clone(), request);
        waiting.ages.push_back((now, token.clone()));
        Ok(token)
    }
    /// The request of a token, if it is good.
    pub fn take(&self, token: &str) -> Option<Request> {
        self.take_at(token, Instant::now())
    }
    fn take_at(&self, token: &str, now: Instant) -> Option<Request> {
        let mut waiting = lock(&self.0);
        waiting.forget_old(now);
        waiting.by_token.remove(token)
    }
}

impl Waiting {
    fn forget_old(&mut self, now: Instant) {
        while let Some((since, token)) = self.ages.front() {
            if now.duration_since(*since) < VALID && self.by_token.contains_key(token) {
                return;
            }
            self.by_token.remove(token);
            self.ages.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::Forward(super::super::Forward { sandbox: "a".into(), ports: vec![80] })
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::default();
        let token = tokens.grant(request()).unwrap();
        assert_eq!(token.len(), DIGITS);
        assert!(tokens.take("x").is_none());
        assert!(tokens.take(&token).is_some());
        assert!(tokens.take(&token).is_none());
        let token = tokens.grant(request()).unwrap();
        assert!(tokens.take_at(&token, Instant::now() + VALID).is_none());
    }

    #[test]
    fn a_thousand_wait_and_no_more() {
        let tokens = Tokens::default();
        let all: Vec<String> = (0..WAITING_MAX).map(|_| tokens.grant(request()).unwrap()).collect();
        assert_eq!(tokens.grant(request()).unwrap_err().kind(), Kind::ResourceExhausted);
        tokens.take(&all[500]).unwrap();
        tokens.grant(request()).unwrap();
        let later = Instant::now() + VALID;
        for _ in 0..WAITING_MAX {
            tokens.grant_at(request(), later).unwrap();
        }
        let waiting = lock(&tokens.0);
        assert_eq!((waiting.by_token.len(), waiting.ages.len()), (WAITING_MAX, WAITING_MAX));
    }
}
