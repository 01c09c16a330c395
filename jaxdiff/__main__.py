"""python -m jaxdiff"""

from jaxdiff.shell.cli import main

main()
