"""How flat the loss is around a trained checkpoint, whatever it was trained on."""
