"""Files of LoRA's updates: merged into weights, and alone in the files of Hugging Face PEFT. Needs torch (and safetensors for
PEFT's); the layers themselves are in `sharp_plugins.networks`.

    merge.py               W + s B A as plain weights; average.py: the mean of several models
    peft.py                the update alone, in the files of Hugging Face PEFT; peft_config.py has their settings, peft_names.py
                           their names, promises.py what the file must hold; transformers_names.py and to_transformers.py:
                           adapters of transformers' BERT and RoBERTa
    fairseq_checkpoint.py  fairseq's checkpoints, read and written; config.py has the config in them
    commands.py            the commands on them
    __main__.py            their command line: python -m sharp_plugins.lora save | load | merge
"""
