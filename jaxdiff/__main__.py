"""python -m jaxdiff"""

from jaxdiff.cli import main

main()
