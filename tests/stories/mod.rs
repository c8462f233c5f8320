//! The stories, one file a subject.
mod exec;
mod pod;
