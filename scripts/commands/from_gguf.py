"""python -m scripts.commands.from_gguf FILE FOLDER: the model of a GGUF file as a model folder, dense, in float32."""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def unpack(file: Path, folder: Path) -> None:
    """Save the weights as the file's grid has them, and the tokenizer that it holds.

    Args:
        file: a GGUF file of a class that transformers reads.
        folder: of `config.json`, safetensors and tokenizer, made anew.
    """
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = model.config
    del config.quantization_config  # the weights are dense from here on, but still count as what they were read from
    with torch.device("meta"):
        dense = type(model)(config)
    dense.load_state_dict(model.state_dict(), assign=True)
    dense.tie_weights()
    dense.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)  # it took the beginning's
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Unpack the file that is named on the command line."""
    parser = argparse.ArgumentParser(prog="from_gguf", description=__doc__)
    parser.add_argument("file", type=Path, help="a GGUF file")
    parser.add_argument("folder", type=Path, help="the model folder to write")
    unpack(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
