"""Files of LoRA's updates and of prefixes: merged into weights, and alone in the files of Hugging Face PEFT. Needs torch (and
safetensors for PEFT's); the layers themselves are in `sharp_plugins.networks`.

    merge.py               W + s B A as plain weights; average.py: the mean of several models
    peft.py                the update alone, in the files of Hugging Face PEFT; peft_config.py has their settings, peft_names.py
                           their names, ranks.py ranks and scales that differ, promises.py what the file must hold
    transformers_names.py  adapters of transformers' BERT and RoBERTa, read; to_transformers.py: written
    decoder_adapters.py    adapters of transformers' GPT-2, OPT and Llama; decoder_names.py: their names; fused.py: q, k and v
                           as GPT-2's one layer
    peft_prefix.py         prefixes in PEFT's files
    fairseq_checkpoint.py  fairseq's checkpoints, read and written; config.py has the config in them
    commands.py            the commands on them
    __main__.py            their command line: python -m sharp_plugins.lora save | load | merge
"""
