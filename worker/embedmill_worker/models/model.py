"""Every kind of model that can be served."""

from embedmill_worker.models.fasttext_file import FastTextFile
from embedmill_worker.models.files import ModelFiles
from embedmill_worker.models.static import StaticTable

#: A model on this machine's disk.
Model = ModelFiles | StaticTable | FastTextFile
