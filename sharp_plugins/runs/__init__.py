"""The engine for runs: fairseq's processes, tables and pictures. It knows no benchmark."""
