//! Error answers of a registry (distribution-spec, "Error Codes").

use serde::Serialize;

/// The specification's codes for a mirror, which does not accept pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    Unauthorized,
    Denied,
    Unsupported,
}

/// The body of an error answer: `{"errors":[{"code":…,"message":…}]}`.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    errors: [ErrorEntry<'a>; 1],
}

#[derive(Debug, Serialize)]
struct ErrorEntry<'a> {
    code: ErrorCode,
    message: &'a str,
}

impl<'a> ErrorBody<'a> {
    pub fn new(code: ErrorCode, message: &'a str) -> Self {
        Self {
            errors: [ErrorEntry { code, message }],
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        // Two strings in a fixed shape: serialisation cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_shape_of_the_specification() {
        let body = ErrorBody::new(ErrorCode::BlobUnknown, "no peer has it");
        let json = String::from_utf8(body.to_json()).expect("UTF-8");
        assert_eq!(
            json,
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no peer has it"}]}"#
        );
    }
}
