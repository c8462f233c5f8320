//! Index: objects by ID and by any unique prefix of it; readers never see half an update.
use crate::error::{Error, Kind, Result};
use crate::thread::{read, write};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

/// Longer is no ID of anything.
const LONGEST: usize = 128;

/// Objects by ID.
pub struct Index<T> {
    object: &'static str,
    by_id: RwLock<BTreeMap<String, Arc<T>>>,
}

impl<T> Index<T> {
    /// Empty; `object` is what errors call its members.
    pub fn new(object: &'static str) -> Index<T> {
        Index { object, by_id: RwLock::default() }
    }
    /// By ID or unique prefix.
    pub fn get(&self, prefix: &str) -> Result<Arc<T>> {
        if prefix.is_empty() {
            return Err(Error::invalid(format!("{} ID is empty", self.object)));
        }
        if prefix.len() > LONGEST {
            return Err(Error::invalid(format!("{} ID is of {} bytes: none is longer than {LONGEST}", self.object, prefix.len())));
        }
        let by_id = read(&self.by_id);
        let mut matches = by_id.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).take_while(|(id, _)| id.starts_with(prefix));
        match (matches.next(), matches.next()) {
            (None, _) => Err(Error::not_found(self.object, prefix)),
            // An exact ID wins over longer ones.
            (Some((id, found)), second) if second.is_none() || id == prefix => Ok(found.clone()),
            _ => Err(Error::new(Kind::InvalidArgument, format!("{} ID prefix \"{prefix}\" is ambiguous; give more of it", self.object))),
        }
    }
    /// All, by ID.
    pub fn list(&self) -> Vec<Arc<T>> {
        read(&self.by_id).values().cloned().collect()
    }
    /// Those that a test passes, by ID.
    pub fn filter(&self, wanted: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        read(&self.by_id).values().filter(|v| wanted(v)).cloned().collect()
    }
    /// Puts or replaces.
    pub fn put(&self, id: &str, value: T) -> Arc<T> {
        let value = Arc::new(value);
        write(&self.by_id).insert(id.into(), value.clone());
        value
    }
    /// Replaces what is there by what `f` makes of it; nothing happens to what is gone meanwhile.
    pub fn swap(&self, id: &str, f: impl FnOnce(&T) -> T) -> Result<Arc<T>> {
        let mut by_id = write(&self.by_id);
        let slot = by_id.get_mut(id).ok_or_else(|| Error::not_found(self.object, id))?;
        *slot = Arc::new(f(slot));
        Ok(slot.clone())
    }
    /// Takes out.
    pub fn remove(&self, id: &str) -> Option<Arc<T>> {
        write(&self.by_id).remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_prefixes_resolve_and_ambiguous_ones_are_refused() {
        let index = Index::new("pod");
        for id in ["abc1", "abd2", "abc"] {
            index.put(id, id);
        }
        assert_eq!(*index.get("abd").unwrap(), "abd2");
        assert_eq!(*index.get("abc").unwrap(), "abc");
        assert_eq!(index.get("ab").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(index.get("x").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(index.get("").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(index.get(&"a".repeat(129)).unwrap_err().kind(), Kind::InvalidArgument);
    }
}
