//! Server: the only room that knows all plugins.
