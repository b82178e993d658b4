"""Networks: backbone, attention modules, heads, and the model that joins them; tensors only, no files."""
