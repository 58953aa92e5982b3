//! apimachinery

pub mod apply;
