"""The page that `gradstep train --report` writes: one file of HTML that needs nothing else."""

from gradstep.train.page.document import check_folder, write_page

__all__ = ["check_folder", "write_page"]
