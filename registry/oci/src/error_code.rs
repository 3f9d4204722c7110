//! The specification's error codes, with default message and status in one table (distribution-spec, Error
//! Codes).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident, $code:literal, $status:literal, $message:literal;)*) => {
        /// A code from the specification. Servers may not invent others.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code, in the specification's order.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The identifier on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status that it usually travels with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// What it means, for when there is nothing more precise to say.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

error_codes! {
    /// code-1
    BlobUnknown, "BLOB_UNKNOWN", 404, "blob unknown to registry";
    /// code-2
    BlobUploadInvalid, "BLOB_UPLOAD_INVALID", 400, "blob upload invalid";
    /// code-3
    BlobUploadUnknown, "BLOB_UPLOAD_UNKNOWN", 404, "blob upload unknown to registry";
    /// code-4
    DigestInvalid, "DIGEST_INVALID", 400, "provided digest did not match uploaded content";
    /// code-5
    ManifestBlobUnknown, "MANIFEST_BLOB_UNKNOWN", 400, "manifest references a manifest or blob unknown to registry";
    /// code-6
    ManifestInvalid, "MANIFEST_INVALID", 400, "manifest invalid";
    /// code-7
    ManifestUnknown, "MANIFEST_UNKNOWN", 404, "manifest unknown to registry";
    /// code-8
    NameInvalid, "NAME_INVALID", 400, "invalid repository name";
    /// code-9
    NameUnknown, "NAME_UNKNOWN", 404, "repository name not known to registry";
    /// code-10
    SizeInvalid, "SIZE_INVALID", 400, "provided length did not match content length";
    /// code-11
    Unauthorized, "UNAUTHORIZED", 401, "authentication required";
    /// code-12
    Denied, "DENIED", 403, "requested access to the resource is denied";
    /// code-13
    Unsupported, "UNSUPPORTED", 405, "the operation is unsupported";
    /// code-14
    TooManyRequests, "TOOMANYREQUESTS", 429, "too many requests";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One error of a response body. Codes are kept as text, since other registries send codes of their own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// One of [`ErrorCode`]'s identifiers when it comes from us.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Whatever may help.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// The body of every error response: `{"errors": [...]}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// At least one error.
    pub errors: Vec<ErrorEntry>,
}

impl ErrorBody {
    /// A body with one error.
    pub fn new(code: ErrorCode, message: impl Into<String>, detail: serde_json::Value) -> Self {
        Self {
            errors: vec![ErrorEntry {
                code: code.as_str().to_owned(),
                message: message.into(),
                detail,
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_fourteen_codes_of_the_specification() {
        assert_eq!(ErrorCode::ALL.len(), 14);
        for code in ErrorCode::ALL {
            assert!((400..=429).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn body_has_the_specified_shape() {
        let body = ErrorBody::new(ErrorCode::NameUnknown, "no", serde_json::Value::Null);
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}"#
        );
    }
}
