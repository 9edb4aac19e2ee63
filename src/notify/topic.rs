//! An SNS topic by its ARN, and what regions are called.

use std::fmt;

/// `arn:aws:sns:us-east-1:123456789012:alerts`, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) partition: String,
    pub(super) region: String,
    pub(super) account: String,
    name: String,
}

impl Topic {
    pub(super) fn parse(arn: &str) -> Result<Self, String> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let not_one = || {
            format!(
                "{arn:?} is not the ARN of an SNS topic; write for example \"arn:aws:sns:us-east-1:123456789012:alerts\""
            )
        };
        let &["arn", partition, "sns", region, account, name] = parts.as_slice() else { return Err(not_one()) };
        let plain = name.strip_suffix(".fifo").unwrap_or(name);
        let is_name = !plain.is_empty() && plain.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !partition.starts_with("aws") || region.is_empty() || account.is_empty() || !is_name {
            return Err(not_one());
        }
        let [partition, region, account, name] = [partition, region, account, name].map(str::to_owned);
        Ok(Self { partition, region, account, name })
    }

    #[expect(
        clippy::case_sensitive_file_extension_comparisons,
        reason = "a topic is no file, and its suffix is lower case"
    )]
    pub(super) fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }

    /// The region as CloudWatch calls it in a notification. One that is not known here has its code alone.
    pub(super) fn region_name(&self) -> &str {
        let named = REGIONS.iter().find(|(code, _)| *code == self.region);
        named.map_or(self.region.as_str(), |(_, name)| name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:{}:sns:{}:{}:{}", self.partition, self.region, self.account, self.name)
    }
}

/// The old regions of Europe are still "EU" there.
const REGIONS: [(&str, &str); 34] = [
    ("af-south-1", "Africa (Cape Town)"),
    ("ap-east-1", "Asia Pacific (Hong Kong)"),
    ("ap-northeast-1", "Asia Pacific (Tokyo)"),
    ("ap-northeast-2", "Asia Pacific (Seoul)"),
    ("ap-northeast-3", "Asia Pacific (Osaka)"),
    ("ap-south-1", "Asia Pacific (Mumbai)"),
    ("ap-south-2", "Asia Pacific (Hyderabad)"),
    ("ap-southeast-1", "Asia Pacific (Singapore)"),
    ("ap-southeast-2", "Asia Pacific (Sydney)"),
    ("ap-southeast-3", "Asia Pacific (Jakarta)"),
    ("ap-southeast-4", "Asia Pacific (Melbourne)"),
    ("ap-southeast-5", "Asia Pacific (Malaysia)"),
    ("ap-southeast-7", "Asia Pacific (Thailand)"),
    ("ca-central-1", "Canada (Central)"),
    ("ca-west-1", "Canada West (Calgary)"),
    ("cn-north-1", "China (Beijing)"),
    ("cn-northwest-1", "China (Ningxia)"),
    ("eu-central-1", "EU (Frankfurt)"),
    ("eu-central-2", "Europe (Zurich)"),
    ("eu-north-1", "EU (Stockholm)"),
    ("eu-south-1", "Europe (Milan)"),
    ("eu-south-2", "Europe (Spain)"),
    ("eu-west-1", "EU (Ireland)"),
    ("eu-west-2", "EU (London)"),
    ("eu-west-3", "EU (Paris)"),
    ("il-central-1", "Israel (Tel Aviv)"),
    ("me-central-1", "Middle East (UAE)"),
    ("me-south-1", "Middle East (Bahrain)"),
    ("sa-east-1", "South America (Sao Paulo)"),
    ("us-east-1", "US East (N. Virginia)"),
    ("us-east-2", "US East (Ohio)"),
    ("us-gov-west-1", "AWS GovCloud (US-West)"),
    ("us-west-1", "US West (N. California)"),
    ("us-west-2", "US West (Oregon)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_a_topics_or_refused() {
        for arn in [
            "alerts",
            "arn:aws:sqs:eu-west-1:123456789012:alerts",
            "arn:aws:sns::123456789012:alerts",
            "arn:aws:sns:eu-west-1:123456789012:",
            "arn:aws:sns:eu-west-1:123456789012:alerts:5be8a5a1",
        ] {
            let reason = Topic::parse(arn).expect_err(arn);
            assert!(reason.starts_with(&format!("{arn:?} is not the ARN of an SNS topic; write ")), "{reason}");
        }
        for (arn, is_fifo, region) in [
            ("arn:aws:sns:eu-west-1:123456789012:alerts", false, "EU (Ireland)"),
            ("arn:aws:sns:us-east-1:123456789012:alerts.fifo", true, "US East (N. Virginia)"),
            ("arn:aws-cn:sns:cn-next-9:123456789012:a_b-c", false, "cn-next-9"),
        ] {
            let topic = Topic::parse(arn).expect(arn);
            assert_eq!((topic.to_string().as_str(), topic.is_fifo(), topic.region_name()), (arn, is_fifo, region));
        }
    }
}
