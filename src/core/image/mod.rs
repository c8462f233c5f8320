//! Images: names for what was pulled. Removing an image is removing one record, in one transaction; what only it referred to is
//! garbage from then on, which any later collection takes.
mod descriptor;
pub mod media;
mod platform;
mod resolve;
#[cfg(test)]
mod tests;

pub use descriptor::Descriptor;
pub use platform::{Fit, Platform};
pub use resolve::{Children, Form, Layer, MAX_DOCUMENT, Resolved, Shape, chain_ids, children, choose, is_artifact, manifest};

use crate::core::events::{Bus, Envelope};
use crate::core::lease::EXPIRE;
use crate::core::metadata::{Db, Labels, Record, Writer, labels, time};
use crate::error::{Error, Result};
use crate::proto::image_events::{ImageCreate, ImageDelete, ImageUpdate};
use log::error;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::SystemTime;

/// A named image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Its name, as `docker.io/library/busybox:latest`.
    pub name: String,
    /// What it is.
    pub target: Descriptor,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// When it was created; set by the store.
    #[serde(with = "time")]
    pub created_at: SystemTime,
    /// When it changed last; set by the store.
    #[serde(with = "time")]
    pub updated_at: SystemTime,
}

impl Image {
    /// An image that was not stored yet.
    pub fn new(name: impl Into<String>, target: Descriptor, labels: Labels) -> Image {
        Image { name: name.into(), target, labels, created_at: time::unset(), updated_at: time::unset() }
    }
    /// When it goes by itself, if its label [`EXPIRE`] says so. A label that is no time does not take it away.
    pub fn expires_at(&self) -> Option<SystemTime> {
        let text = self.labels.get(EXPIRE)?;
        time::parse(text).inspect_err(|e| error!("image {}: label {EXPIRE} is ignored: {}", self.name, e.chain())).ok()
    }
}

impl Record for Image {
    const TABLE: &'static str = "images";
}

/// The images.
#[derive(Clone)]
pub struct Images {
    db: Arc<Db>,
    events: Arc<Bus>,
}

impl Images {
    /// Images in `db`, whose changes are told on `events`.
    pub fn new(db: Arc<Db>, events: Arc<Bus>) -> Images {
        Images { db, events }
    }
    /// An image; `NotFound` names it.
    pub fn get(&self, ns: &str, name: &str) -> Result<Image> {
        self.db.read(|r| r.get(ns, name))?.ok_or_else(|| Error::not_found("image", name))
    }
    /// The images of a namespace, by name.
    pub fn list(&self, ns: &str) -> Result<Vec<Image>> {
        Ok(self.db.read(|r| r.list(ns))?.into_iter().map(|(_, image)| image).collect())
    }
    /// Stores a new image; `AlreadyExists` if the name is taken.
    pub fn create(&self, ns: &str, mut image: Image) -> Result<Image> {
        check(&image)?;
        image.created_at = SystemTime::now();
        image.updated_at = image.created_at;
        self.db.gate().hold(|| {
            self.db.write(|w| match w.get::<Image>(ns, &image.name)? {
                Some(_) => Err(Error::already_exists("image", &image.name)),
                None => w.put(ns, &image.name, &image),
            })
        })?;
        self.tell_create(ns, &image);
        Ok(image)
    }
    /// Stores an image under its name, new or not; the creation time of one that was there stays.
    pub fn upsert(&self, ns: &str, image: Image) -> Result<Image> {
        let name = image.name.clone();
        let stored = self.upsert_all(ns, vec![image])?;
        stored.into_iter().next().ok_or_else(|| Error::internal(format!("image {name}: not stored")))
    }
    /// Stores several names in one transaction: after a crash all are there or none. Labels that a name had stay as long as it
    /// names the same thing; an empty value takes one away.
    pub fn upsert_all(&self, ns: &str, images: Vec<Image>) -> Result<Vec<Image>> {
        images.iter().try_for_each(check)?;
        let now = SystemTime::now();
        let put = |w: &Writer, mut image: Image| {
            let known = w.get::<Image>(ns, &image.name)?;
            let same = known.as_ref().filter(|k| k.target.digest == image.target.digest);
            let mut all = same.map(|k| k.labels.clone()).unwrap_or_default();
            labels::merge(&mut all, image.labels);
            image.labels = all;
            image.created_at = known.as_ref().map_or(now, |k| k.created_at);
            image.updated_at = now;
            w.put(ns, &image.name, &image)?;
            Ok((known.is_some(), image))
        };
        let stored: Vec<(bool, Image)> =
            self.db.gate().hold(|| self.db.write(|w| images.into_iter().map(|image| put(w, image)).collect::<Result<_>>()))?;
        for (known, image) in &stored {
            if *known { self.tell_update(ns, image) } else { self.tell_create(ns, image) }
        }
        Ok(stored.into_iter().map(|(_, image)| image).collect())
    }
    /// Changes labels of images that are there, in one transaction; a name that is not is left out. An empty value takes a label
    /// away.
    pub fn set_labels(&self, ns: &str, names: &[String], changes: &Labels) -> Result<()> {
        labels::check(changes)?;
        let changed = self.db.write(|w| {
            let mut changed = vec![];
            for name in names {
                let Some(mut image) = w.get::<Image>(ns, name)? else { continue };
                labels::merge(&mut image.labels, changes.clone());
                image.updated_at = SystemTime::now();
                w.put(ns, name, &image)?;
                changed.push(image);
            }
            Ok(changed)
        })?;
        changed.iter().for_each(|image| self.tell_update(ns, image));
        Ok(())
    }
    /// Removes an image; `NotFound` names it. To free its space now, run a collection after it.
    pub fn delete(&self, ns: &str, name: &str) -> Result<()> {
        self.db.write(|w| if w.remove::<Image>(ns, name)? { Ok(()) } else { Err(Error::not_found("image", name)) })?;
        self.tell_delete(ns, name);
        Ok(())
    }
    /// Removes several names in one transaction; those that are not there are fine.
    pub fn delete_all(&self, ns: &str, names: &[String]) -> Result<()> {
        let gone = self.db.write(|w| {
            let mut gone = vec![];
            for name in names {
                if w.remove::<Image>(ns, name)? {
                    gone.push(name);
                }
            }
            Ok(gone)
        })?;
        for name in gone {
            self.tell_delete(ns, name);
        }
        Ok(())
    }
    /// Tells that an image is gone: the collector, which takes the record itself, does so afterwards.
    pub(crate) fn tell_delete(&self, ns: &str, name: &str) {
        let message = ImageDelete { name: name.to_owned(), ..ImageDelete::default() };
        self.events.publish(Envelope::new(ns, "/images/delete", "containerd.events.ImageDelete", &message));
    }
    fn tell_create(&self, ns: &str, image: &Image) {
        let labels = image.labels.clone().into_iter().collect();
        let message = ImageCreate { name: image.name.clone(), labels, ..ImageCreate::default() };
        self.events.publish(Envelope::new(ns, "/images/create", "containerd.events.ImageCreate", &message));
    }
    fn tell_update(&self, ns: &str, image: &Image) {
        let labels = image.labels.clone().into_iter().collect();
        let message = ImageUpdate { name: image.name.clone(), labels, ..ImageUpdate::default() };
        self.events.publish(Envelope::new(ns, "/images/update", "containerd.events.ImageUpdate", &message));
    }
}

fn check(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(Error::invalid("an image needs a name"));
    }
    labels::check(&image.labels)
}
