//! Kinds that are asked, not stored: reviews, bindings, token requests.

use crate::value::Put;
use crate::{Kind, PLAIN};

pub static REVIEW: Kind = PLAIN;
pub static BINDING: Kind = PLAIN;
pub static TOKEN_REQUEST: Kind =
    Kind { defaults: |o| o.ensure("spec").fill("expirationSeconds", 3600), ..PLAIN };
