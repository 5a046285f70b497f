//! Flags of training that change the network, as fairseq's checkpoints and the ports'
//! configurations state them.

use serde_json::Value;

use crate::models::{ModelError, Result};

/// What a flag has to be, where it is stated.
enum Must {
    /// On or off.
    Be(bool),
    /// This number.
    Equal(f64),
    /// One of these words.
    Say(&'static [&'static str]),
}

const SHARES_ALL: &str = "share_all_embeddings";
const SHARES_OUTPUT: &str = "share_decoder_input_output_embed";

/// Flags whose other values make networks that are not implemented.
const REQUIRED: [(&str, Must); 27] = [
    ("encoder_normalize_before", Must::Be(true)),
    ("decoder_normalize_before", Must::Be(true)),
    ("layernorm_embedding", Must::Be(true)),
    ("patch_layernorm_embedding", Must::Be(true)),
    ("add_type_embedding", Must::Be(true)),
    ("use_image_feature", Must::Be(true)),
    (SHARES_ALL, Must::Be(true)),
    (SHARES_OUTPUT, Must::Be(true)),
    ("no_scale_embedding", Must::Be(true)),
    ("scale_embedding", Must::Be(false)),
    ("scale_resids", Must::Be(false)),
    ("share_attn_bias", Must::Be(false)),
    ("interpolate_position", Must::Be(false)),
    ("use_ofasys", Must::Be(false)),
    ("use_gamma_feature", Must::Be(false)),
    ("no_token_positional_embeddings", Must::Be(false)),
    ("no_cross_attention", Must::Be(false)),
    ("cross_self_attention", Must::Be(false)),
    ("encoder_prompt", Must::Be(false)),
    ("decoder_prompt", Must::Be(false)),
    ("adapter", Must::Be(false)),
    // Its batch normalisations have another epsilon.
    ("sync_bn", Must::Be(false)),
    ("imagenet_default_mean_and_std", Must::Be(false)),
    ("attn_scale_factor", Must::Equal(2.0)),
    ("activation_fn", Must::Say(&["gelu"])),
    ("activation_function", Must::Say(&["gelu"])),
    ("resnet_type", Must::Say(&["resnet50", "resnet101", "resnet152"])),
];

/// Stated flags.
pub(super) struct Flags<'a> {
    /// Where they stand, for messages.
    place: &'static str,
    /// The places where they are looked for, in this order.
    groups: Vec<&'a Value>,
    language: Option<&'a str>,
}

impl<'a> Flags<'a> {
    /// Those of a checkpoint of fairseq's: `cfg`, or `args` in older ones.
    pub(super) fn of_checkpoint(settings: &'a Value) -> Self {
        let (cfg, args) = (&settings["cfg"], &settings["args"]);
        let groups = vec![&cfg["model"], &cfg["task"], args, cfg];
        Self { place: "the checkpoint's cfg", groups, language: None }
    }

    /// Those of a port's `config.json` and of ModelScope's `configuration.json`.
    pub(super) fn of_port(config: &'a Value, around: &'a Value) -> Self {
        let groups = vec![config, &around["model"]];
        Self { place: "config.json", groups, language: around["model"]["language"].as_str() }
    }

    /// Refuses what the network here does not do.
    ///
    /// # Errors
    /// Names the first such flag.
    pub(super) fn check(&self) -> Result<()> {
        for (name, must) in &REQUIRED {
            let Some(value) = self.get(name) else { continue };
            // The wider flag includes this one, which may not say so.
            if *name == SHARES_OUTPUT && self.is_on(SHARES_ALL) == Some(true) {
                continue;
            }
            let (fits, expected) = match must {
                Must::Be(on) => (is_on(value) == Some(*on), on.to_string()),
                Must::Equal(number) => (value.as_f64() == Some(*number), number.to_string()),
                Must::Say(words) => {
                    (value.as_str().is_some_and(|word| words.contains(&word)), words.join(" or "))
                }
            };
            if !fits {
                return Err(ModelError::Weights(format!(
                    "{}: {name} is {value}; only networks with {expected} are implemented",
                    self.place
                )));
            }
        }
        match self.language {
            Some(language) if language != "en" => Err(ModelError::Weights(format!(
                "configuration.json: language is {language}; only English vocabularies are read"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a flag is on, where it is stated.
    pub(super) fn is_on(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(is_on)
    }

    /// A flag that counts something.
    pub(super) fn count(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Value::as_u64)
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let mut stated = self.groups.iter().filter_map(|group| group.get(name));
        stated.find(|value| !value.is_null())
    }
}

fn is_on(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| value.as_u64().map(|number| number != 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_network_does_not_do_is_named() {
        for (flag, value) in [
            ("scale_resids", json!(true)),
            ("attn_scale_factor", json!(1.0)),
            ("activation_fn", json!("relu")),
            ("resnet_type", json!("resnet18")),
            ("sync_bn", json!(1)),
            ("adapter", json!(true)),
        ] {
            for settings in [
                json!({"args": {flag: value}}),
                json!({"args": null, "cfg": {"model": {flag: value}}}),
                json!({"cfg": {"task": {flag: value}}}),
            ] {
                let error = Flags::of_checkpoint(&settings).check().unwrap_err().to_string();
                assert!(error.contains(flag) && error.contains("only networks"), "{error}");
            }
        }
        let chinese = json!({"model": {"language": "zh"}});
        let error = Flags::of_port(&json!({}), &chinese).check().unwrap_err().to_string();
        assert!(error.contains("zh"), "{error}");
    }

    #[test]
    fn published_flags_pass() {
        let published = json!({"cfg": {"model": {
            "encoder_normalize_before": true, "scale_resids": false, "attn_scale_factor": 2,
            "resnet_type": "resnet152", "activation_fn": "gelu", "scale_attn": true,
            "adapter": null, "patch_image_size": 512
        }}});
        let flags = Flags::of_checkpoint(&published);
        flags.check().unwrap();
        assert_eq!(flags.count("patch_image_size"), Some(512));
        assert_eq!(flags.is_on("scale_attn"), Some(true));
        assert_eq!(flags.is_on("absent"), None);
        Flags::of_checkpoint(&Value::Null).check().unwrap();
    }
}
