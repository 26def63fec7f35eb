"""How the official ALBEF, RaSa and MARS checkpoints name what we have.

Each of our tensors is one official tensor, or several of them joined along dimension 0 (fused projections).
"""

from __future__ import annotations

import re

_SIMPLE = (
    (r"image_encoder\.cls_token", "visual_encoder{m}.cls_token"),
    (r"image_encoder\.positions", "visual_encoder{m}.pos_embed"),
    (r"image_encoder\.patch_embed\.(.+)", "visual_encoder{m}.patch_embed.proj.{0}"),
    (r"image_encoder\.norm\.(.+)", "visual_encoder{m}.norm.{0}"),
    (r"image_encoder\.blocks\.(\d+)\.(norm1|norm2)\.(.+)", "visual_encoder{m}.blocks.{0}.{1}.{2}"),
    (r"image_encoder\.blocks\.(\d+)\.qkv\.(.+)", "visual_encoder{m}.blocks.{0}.attn.qkv.{1}"),
    (r"image_encoder\.blocks\.(\d+)\.out\.(.+)", "visual_encoder{m}.blocks.{0}.attn.proj.{1}"),
    (r"image_encoder\.blocks\.(\d+)\.(fc1|fc2)\.(.+)", "visual_encoder{m}.blocks.{0}.mlp.{1}.{2}"),
    (r"image_projection\.(.+)", "vision_proj{m}.{0}"),
    (r"text_projection\.(.+)", "text_proj{m}.{0}"),
    (r"word_head\.bias", "text_encoder{m}.cls.predictions.bias"),
    (r"word_head\.dense\.(.+)", "text_encoder{m}.cls.predictions.transform.dense.{0}"),
    (r"word_head\.norm\.(.+)", "text_encoder{m}.cls.predictions.transform.LayerNorm.{0}"),
    (r"text_encoder\.words\.weight", "text_encoder{m}.{bert}embeddings.word_embeddings.weight"),
    (r"text_encoder\.positions\.weight", "text_encoder{m}.{bert}embeddings.position_embeddings.weight"),
    (r"text_encoder\.token_type", "text_encoder{m}.{bert}embeddings.token_type_embeddings.weight"),
    (r"text_encoder\.norm\.(.+)", "text_encoder{m}.{bert}embeddings.LayerNorm.{0}"),
)
_LAYER = (
    (r"self_attention\.qkv\.(.+)", ("attention.self.query.{0}", "attention.self.key.{0}", "attention.self.value.{0}")),
    (r"self_attention\.out\.(.+)", ("attention.output.dense.{0}",)),
    (r"self_attention\.norm\.(.+)", ("attention.output.LayerNorm.{0}",)),
    (r"cross_attention\.query\.(.+)", ("crossattention.self.query.{0}",)),
    (r"cross_attention\.key_value\.(.+)", ("crossattention.self.key.{0}", "crossattention.self.value.{0}")),
    (r"cross_attention\.out\.(.+)", ("crossattention.output.dense.{0}",)),
    (r"cross_attention\.norm\.(.+)", ("crossattention.output.LayerNorm.{0}",)),
    (r"fc1\.(.+)", ("intermediate.dense.{0}",)),
    (r"fc2\.(.+)", ("output.dense.{0}",)),
    (r"norm\.(.+)", ("output.LayerNorm.{0}",)),
)
_TOP = (
    (r"temperature", "temp"),
    (r"(itm_head|prd_head|mrtd_head)\.(.+)", "{0}.{1}"),
    (r"mae_decoder\.mask_token", "mask_token"),
    (r"mae_decoder\.positions", "visual_decoder_pos_embed"),
    (r"mae_decoder\.pixels\.(.+)", "decoder_pred.{0}"),
    (r"mae_decoder\.blocks\.(\d+)\.(norm\d)\.(.+)", "visual_decoder.blocks.{0}.{1}.{2}"),
    (r"mae_decoder\.blocks\.(\d+)\.fc1\.(.+)", "visual_decoder.blocks.{0}.ff.net.0.l.{1}"),
    (r"mae_decoder\.blocks\.(\d+)\.fc2\.(.+)", "visual_decoder.blocks.{0}.ff.net.2.{1}"),
    (r"queue\.image_KE", "image_queue"),
    (r"queue\.caption_KE", "text_queue"),
    (r"queue\.identity_K", "idx_queue"),
    (r"queue\.pointer", "queue_ptr"),
)
_DECODER_ATTENTION = re.compile(r"mae_decoder\.blocks\.(\d+)\.(self|cross)_attention\.(query|key|value|out)\.(.+)")


def official_names(name: str, *, bert_level: bool = True) -> tuple[str, ...]:
    """Official names of our tensor `name`, in the order in which they are joined; () for a tensor of ours alone.

    bert_level: text encoder keys carry `bert.` (RaSa, MARS and ALBEF.pth do, ALBEF's fine-tuned files do not).
    """
    for start, suffix in (("online.", ""), ("twin.", "_m")):
        if name.startswith(start):
            return _encoder_names(name.removeprefix(start), m=suffix, bert="bert." if bert_level else "")
    match = _DECODER_ATTENTION.fullmatch(name)
    if match:
        block, kind, part, rest = match.groups()
        part = "to_out.0" if part == "out" else f"to_{part[0]}"
        return (f"visual_decoder.blocks.{block}.attn{1 if kind == 'self' else 2}.{part}.{rest}",)
    for pattern, template in _TOP:
        match = re.fullmatch(pattern, name)
        if match:
            return (template.format(*match.groups()),)
    return ()


def _encoder_names(name: str, *, m: str, bert: str) -> tuple[str, ...]:
    layer = re.fullmatch(r"text_encoder\.layers\.(\d+)\.(.+)", name)
    if layer:
        for pattern, templates in _LAYER:
            match = re.fullmatch(pattern, layer[2])
            if match:
                start = f"text_encoder{m}.{bert}encoder.layer.{layer[1]}."
                return tuple(start + template.format(*match.groups()) for template in templates)
    for pattern, template in _SIMPLE:
        match = re.fullmatch(pattern, name)
        if match:
            return (template.format(*match.groups(), m=m, bert=bert),)
    return ()
