"""GLUE (Wang et al. 2019): its data in fairseq's form, its metrics, and tables of fine-tuning runs."""
