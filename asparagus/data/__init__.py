"""Data: the task folders of SEEDS A5-A15, how they are made, split, read and fed to a Trainer."""

from __future__ import annotations

MAKERS: dict[str, str] = {
    "Task001_Digits": "asparagus.data.digits.make_digits",
    "Task996_LauritSynCls": "asparagus.data.synthetic.make_synthetic_cls",
    "Task997_LauritSynSeg": "asparagus.data.synthetic.make_synthetic_seg",
    "Task998_LauritSyn": "asparagus.data.synthetic.make_synthetic_pretrain",
}
"""Tasks that `asp data make NAME` can build: name -> dotted path of `maker(data_root, **options) -> Task`.

Strings, so that the client can list them without importing torch.
"""
